"""The frozen encoder whose embeddings guide a denoiser: which it is, how large, and its weights."""

from dataclasses import dataclass
from typing import Any

from jax.typing import DTypeLike

from stedm_jax.common.errors import UserError
from stedm_jax.models.build import build_ssl_encoder, ssl_size
from stedm_jax.models.functional import Functional
from stedm_jax.models.style import FROZEN
from stedm_jax.models.vit import ViT
from stedm_jax.models.vit_sizes import ViTSize, vit_size
from stedm_jax.stages import ssl
from stedm_jax.stages.frozen import Weights, identify
from stedm_jax.stages.initial import load_weights
from stedm_jax.stages.run import Run

KEY = "guided.guide.weights"
SSL, NONE = "ssl", "none"


@dataclass(frozen=True)
class Encoder:
    """A Vision Transformer that is never trained here."""

    network: Functional
    size: ViTSize


def build(config: Any, dtype: DTypeLike) -> Encoder | None:
    """The encoder that config.guided.guide names; None where it is "none".

    Raises:
      UserError: an unknown one.
    """
    source = config.guided.guide.source
    if source == NONE:
        return None
    if source == SSL:
        return Encoder(build_ssl_encoder(config.ssl, dtype=dtype), ssl_size(config.ssl))
    if not source.startswith(FROZEN):
        raise UserError(
            f"config.guided.guide.source is {source!r}; it is {SSL}, {NONE}, or {FROZEN}NAME of a Vision Transformer."
        )
    size = vit_size(source.removeprefix(FROZEN))
    return Encoder(Functional(lambda rngs: ViT(size, dtype=dtype, rngs=rngs)), size)


def load(run: Run, encoder: Encoder) -> tuple[Any, Weights]:
    """Its parameters, and which they are; of "ssl" those of the backbone that this run has learnt.

    Raises:
      UserError: they are not there or do not fit.
    """
    config = run.config.guided.guide
    if config.source == SSL:
        run.need(SSL)
        _, params, origin = ssl.trained(run)
        return params, origin
    return load_weights(encoder.network.abstract, config.weights, KEY), identify(
        config.weights, KEY
    )
