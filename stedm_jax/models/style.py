"""The style extractor of STEDM: style images -> style vector (Oettl et al., ECCV 2024, section 3).

Each image goes through one encoder; the vectors of all images of a style are aggregated to one.
"svit" reads all the images at once and needs no encoder; "none" gives zeros and has no parameters.
"tokens" (beyond the paper) leaves the vectors of the images apart, for a denoiser that reads them
by cross-attention (style_path "cross"): the result is `Tokens`, not a vector.
The encoder "vit:NAME" is a pathology encoder of vit_sizes.py that is never trained: whoever holds
its weights runs it and gives its embeddings to `of_embeddings`; only the linear map from them to
`dim` is a parameter here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from stedm_jax.models import aggregation as agg
from stedm_jax.models.conv_encoder import ConvEncoder
from stedm_jax.models.layers import linear
from stedm_jax.models.svit import SViT
from stedm_jax.models.swin_v2 import SwinV2
from stedm_jax.models.transformer import Tokens
from stedm_jax.models.vit_sizes import VIT_SIZES, ViTSize

# Name -> encoder of (n, h, w, 3) images in [-1, 1]; `width` 0 stands for the published width.
ENCODERS: dict[str, Callable[..., nnx.Module]] = {
    "swin_v2_t": lambda width, dim, remat, **kw: SwinV2(remat=remat, classes=dim, **kw),
    "swin_v2": lambda width, dim, remat, **kw: SwinV2(
        remat=remat,
        classes=dim,
        embed_dim=width or 96,
        depths=(2, 2, 2, 2),
        heads=tuple(max(1, (width or 96) * m // 32) for m in (1, 2, 4, 8)),
        window=4,
        **kw,
    ),
    "conv": lambda width, dim, remat, **kw: ConvEncoder(width=width or 32, dim=dim, **kw),
}
FROZEN = "vit:"
AGGREGATIONS = ("mean", "max", "linear", "attention", "svit", "none", "tokens")


def encoder_names() -> list[str]:
    """The encoders to choose from."""
    return [*ENCODERS, *(FROZEN + name for name in VIT_SIZES)]


def frozen_size(encoder: str) -> ViTSize | None:
    """The size of an encoder that is never trained; None for one that is."""
    return VIT_SIZES[encoder.removeprefix(FROZEN)] if encoder.startswith(FROZEN) else None


class StyleExtractor(nnx.Module):
    """Style images, some of them perhaps absent, to one vector of length `dim`, or to as many
    tokens of it.

    Args:
        encoder: one of `encoder_names()`. width: its first width. aggregation: one of AGGREGATIONS.
        remat: for memory, the images of a style go through the encoder one after another and are
            computed again in the backward pass; with one image it is each block of a Swin encoder
            that is.
        tiles: the number k of style images; only "linear" and "svit" depend on it.
    """

    def __init__(
        self,
        *,
        encoder: str = "swin_v2_t",
        width: int = 0,
        aggregation: str = "mean",
        dim: int = 512,
        tiles: int = 1,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        self.dim, self.remat, self.reads_images = dim, remat, aggregation == "svit"
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation {aggregation!r} is not one of {AGGREGATIONS}")
        unread = aggregation in ("svit", "none")
        frozen = None if unread else frozen_size(encoder)
        self.encoder = (
            None if unread or frozen else ENCODERS[encoder](width, dim, remat and tiles == 1, **kw)
        )
        self.project = linear(frozen.embedding_dim, dim, **kw) if frozen else None
        simple = {"mean": agg.Mean, "max": agg.Max, "none": agg.Empty, "tokens": agg.Apart}
        if aggregation in simple:
            self.aggregation = simple[aggregation]()
        elif aggregation == "linear":
            self.aggregation = agg.Linear(dim, tiles, **kw)
        elif aggregation == "attention":
            self.aggregation = agg.Attention(dim, **kw)
        else:
            self.aggregation = SViT(out=dim, count=tiles, **kw)

    def __call__(
        self, images: Float[Array, "b k h w 3"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"] | Tokens:
        """`images` in [-1, 1], or the constant that stands for a dropped style; `present`: which of
        them exist."""
        if self.reads_images:
            return self.aggregation(images, present)
        b, k = present.shape
        if self.project is not None:
            raise ValueError("a frozen encoder is run by the caller; see of_embeddings")
        if self.encoder is None:
            return jnp.zeros((b, self.dim), jnp.float32)
        if self.remat and k > 1:
            # One image of every style at a time, so that neither pass holds what the encoder makes
            # of more than those.
            vectors = jnp.moveaxis(
                lax.map(jax.checkpoint(self.encoder), jnp.moveaxis(images, 1, 0)), 0, 1
            )
        else:
            vectors = self.encoder(images.reshape(b * k, *images.shape[2:])).reshape(b, k, -1)
        return self.aggregation(vectors, present)

    def of_embeddings(
        self, embeddings: Float[Array, "b k e"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"] | Tokens:
        """As for images, from what the frozen encoder makes of them."""
        if self.project is None:
            raise ValueError("this encoder is trained and reads images")
        return self.aggregation(self.project(embeddings).astype(jnp.float32), present)
