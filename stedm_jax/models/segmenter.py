"""STEDM's segmenter: Mix Transformer encoder and UNet decoder, as smp.Unet("mit_b2").

With the numbers of B2 and two classes: 27.48 M parameters.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stedm_jax.models.layers import Slots, conv
from stedm_jax.models.mit import MixTransformer
from stedm_jax.models.unet_decoder import UnetDecoder


class Segmenter(nnx.Module):
    """Images to logits at full size.

    Args:
        classes: number of logits. widths, depths, heads, reductions: of the encoder's stages.
        decoder: channels of the decoder's blocks, each of which doubles the size; one more than
            the encoder has stages, since its first stage is at a quarter of the size.
    """

    def __init__(
        self,
        *,
        classes: int,
        widths: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        decoder: Sequence[int] = (256, 128, 64, 32, 16),
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if len(decoder) != len(widths) + 1:
            raise ValueError(f"{len(widths)} stages need {len(widths) + 1} decoder blocks")
        kw = {"rngs": rngs, "dtype": dtype}
        self.factor = 2 ** len(decoder)
        self.encoder = MixTransformer(widths=widths, depths=depths, heads=heads, reductions=reductions, **kw)
        self.decoder = UnetDecoder(widths, decoder, **kw)
        self.segmentation_head = Slots({0: conv(decoder[-1], classes, 3, **kw)})

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w classes"]:
        """`x` in [-1, 1], sides divisible by `factor` (32 for four stages); float32 logits."""
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(f"an image of {x.shape[1:3]} is not divisible by {self.factor}")
        return self.segmentation_head[0](self.decoder(self.encoder(x))).astype(jnp.float32)
