"""The style extractor of STEDM: style images -> style vector (Oettl et al., ECCV 2024, section 3).

Each image goes through one encoder; the vectors of all images of a style are aggregated to one.
"svit" and "svit_any_size" read all the images at once and need no encoder; "none" gives zeros and
has no parameters.
"tokens" (beyond the paper) leaves the vectors of the images apart, for a denoiser that reads them
by cross-attention (style_path "cross"): the result is `Tokens`, not a vector.
The encoder "vit:NAME" is a pathology encoder (vit.py) that is never trained: the holder of its
weights runs it and gives its embeddings to `of_embeddings`; only the linear map from them to `dim`
is a parameter here.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from stedm_jax.models.blocks import Tokens
from stedm_jax.models.functional import Functional
from stedm_jax.models.layers import Maker
from stedm_jax.models.named_networks import AGGREGATIONS, STYLE_ENCODERS, find
from stedm_jax.settings.diffusion import Style
from stedm_jax.settings.names import FROZEN, READ_IMAGES


def frozen_size(encoder: str) -> Any:
    """The `vit.ViTSize` of an encoder that is never trained; None for one that is."""
    if not encoder.startswith(FROZEN):
        return None
    return find("vit:vit_size")(encoder.removeprefix(FROZEN))


class StyleExtractor(nnx.Module):
    """Style images, some of them perhaps absent, to one vector of length `dim`, or to as many
    tokens of it.

    Args:
        encoder: one of named_networks.STYLE_ENCODERS, or vit:NAME. width: its first width; 0: as
            published.
        aggregation: one of named_networks.AGGREGATIONS. dim: length of the result.
        remat: for memory, the images of a style go through the encoder one after another and are
            computed again in the backward pass; with one image it is each block of a Swin encoder
            that is.
        tiles: the number k of style images; only "linear" and both "svit" depend on it.
        svit_side: of the images that the positions of "svit" are learned for, in pixels.
    """

    def __init__(
        self,
        make: Maker,
        *,
        encoder: str,
        width: int,
        aggregation: str,
        dim: int,
        tiles: int,
        svit_side: int = 0,
        remat: bool = False,
    ):
        self.dim, self.remat, self.reads_images = dim, remat, aggregation in READ_IMAGES
        unread = aggregation in (*READ_IMAGES, "none")
        frozen = None if unread else frozen_size(encoder)
        reader = project = None
        if frozen:
            project = make.linear(frozen.embedding_dim, dim)
        elif not unread:
            reader = find(STYLE_ENCODERS[encoder])(make, width, dim, remat and tiles == 1)
        self.encoder, self.project = reader, project
        more = {"side": svit_side} if aggregation == "svit" else {}
        self.aggregation = find(AGGREGATIONS[aggregation])(make, dim, tiles, **more)

    def __call__(
        self, images: Float[Array, "b k h w 3"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"] | Tokens:
        """`images` in [-1, 1], or the constant that stands for a dropped style; `present`: which of
        them exist."""
        if self.reads_images:
            return self.aggregation(images, present)
        b, k = present.shape
        if self.encoder is None:
            return jnp.zeros((b, self.dim), jnp.float32)
        if self.remat and k > 1:
            # One image of every style at a time, so that neither pass holds what the encoder makes
            # of more than those.
            each = lax.map(jax.checkpoint(self.encoder), jnp.moveaxis(images, 1, 0))
            vectors = jnp.moveaxis(each, 0, 1)
        else:
            vectors = self.encoder(images.reshape(b * k, *images.shape[2:])).reshape(b, k, -1)
        return self.aggregation(vectors, present)

    def of_embeddings(
        self, embeddings: Float[Array, "b k e"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"] | Tokens:
        """As for images, from what the frozen encoder makes of them."""
        assert self.project is not None
        return self.aggregation(self.project(embeddings).astype(jnp.float32), present)


def build_style(style: Style, dtype: DTypeLike) -> Functional:
    """The extractor that config.diffusion.style describes; of "svit", svit_side is not 0."""
    keys = ("encoder", "width", "aggregation", "dim", "tiles", "svit_side", "remat")
    shape = {key: getattr(style, key) for key in keys}
    return Functional(partial(StyleExtractor, **shape), dtype)


def build_style_guide(style: Style, dtype: DTypeLike) -> Functional | None:
    """The pathology encoder that reads the style, or None where the encoder is a trained one."""
    size = frozen_size(style.encoder)
    return None if size is None else find("vit:vit_network")(size, dtype)
