"""A denoiser that is guided by embeddings of the same tile (LID: Graikos et al., CVPR 2024, arXiv
2312.07330).

    token  = Linear(e / |e|),  e an embedding, one linear map for each kind of them            (1)
    output = UNet(z_t, t, context = tokens)                                                    (2)

A tile has the embedding of itself ("patch") and, as LID's model of TCGA-BRCA at 20x, that of the
field around it at a lower magnification ("region"), so one or two tokens. An embedding that is not
there is the zero vector, whose token is the bias of (1). Parameters: unet, as published, and
guide/patch_fc, guide/region_fc.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from stedm_jax.models.layers import Maker
from stedm_jax.models.unet import UNet

TOKENS = ("patch", "region")
SMALLEST = 1e-12

Embeddings = Mapping[str, Array]


class Guide(nnx.Module):
    """Equation (1).

    Args:
        widths: kind of embedding, of TOKENS -> its length. dim: length of a token.
        normalize: whether embeddings are brought to length 1, as published.
    """

    def __init__(
        self,
        make: Maker,
        widths: Mapping[str, int],
        dim: int,
        *,
        normalize: bool = True,
    ):
        self.tokens, self.normalize = tuple(name for name in TOKENS if name in widths), normalize
        for name in self.tokens:
            setattr(self, f"{name}_fc", make.linear(widths[name], dim))

    def __call__(self, embeddings: Embeddings) -> Float[Array, "b n dim"]:
        """Tokens of (b, length) arrays, in the order of TOKENS."""
        tokens = []
        for name in self.tokens:
            e = embeddings[name].astype(jnp.float32)
            if self.normalize:
                e = e / jnp.maximum(jnp.sqrt(jnp.square(e).sum(-1, keepdims=True)), SMALLEST)
            tokens.append(getattr(self, f"{name}_fc")(e))
        return jnp.stack(tokens, axis=1)


class GuidedUNet(nnx.Module):
    """Equation (2); without a guide a plain UNet, whose transformers see the zero vector.

    Args:
        widths, dim, normalize: of the guide; without widths there is none.
        unet: arguments of UNet.
    """

    def __init__(
        self,
        make: Maker,
        *,
        widths: Mapping[str, int],
        dim: int,
        normalize: bool = True,
        **unet: Any,
    ):
        self.guide = Guide(make, widths, dim, normalize=normalize) if widths else None
        self.unet = UNet(make, **unet)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Num[Array, " b"],
        embeddings: Embeddings | None = None,
        key: jax.Array | None = None,
    ) -> Float[Array, "b h w c"]:
        """The prediction; `key` switches dropout on."""
        return self.unet(x, t, key=key, context=self._context(embeddings))

    def features(
        self,
        x: Float[Array, "b h w c"],
        t: Num[Array, " b"],
        embeddings: Embeddings | None,
        *,
        taps: Sequence[str],
    ) -> dict[str, Array]:
        """{tap: features}; nothing after the last tap is run."""
        return self.unet.features(x, t, context=self._context(embeddings), taps=taps)

    def _context(self, embeddings: Embeddings | None) -> Float[Array, "b n dim"] | None:
        return None if self.guide is None or embeddings is None else self.guide(embeddings)
