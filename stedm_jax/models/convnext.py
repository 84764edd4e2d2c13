"""ConvNeXt (Liu et al., CVPR 2022) as an encoder: four feature maps, named as in timm.

smp writes the same parameters under `encoder.model.stem_0` and `encoder.model.stages_0`
(convert/tables/convnext.py). Counts without the classifier: Tiny 27,818,592; Small 49,453,152; Base
87,564,416. Stochastic depth, which the published training uses and timm's networks leave out by
default, is left out.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stedm_jax.models.layers import LayerNorm, Mlp, Options, Slots, conv, trunc_normal

SIZES: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "convnext_small": {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768)},
    "convnext_base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
}
LAYER_SCALE = 1e-6


class Block(nnx.Module):
    """x + gamma * mlp(norm(depth-wise 7x7 convolution of x))."""

    def __init__(self, dim: int, **options: Unpack[Options]):
        self.dtype = options["dtype"]
        self.conv_dw = nnx.Conv(
            dim,
            dim,
            (7, 7),
            padding=((3, 3), (3, 3)),
            feature_group_count=dim,
            kernel_init=trunc_normal,
            **options,
        )
        self.norm = LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim, **options)
        self.gamma = nnx.Param(jnp.full(dim, LAYER_SCALE, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        gamma = self.gamma[...].astype(self.dtype)[None, None, None]
        return x + self.mlp(self.norm(self.conv_dw(x))) * gamma


class Stage(nnx.Module):
    """A norm and a strided convolution, where the width changes; then the blocks."""

    def __init__(self, cin: int, dim: int, depth: int, **options: Unpack[Options]):
        layers = []
        if cin != dim:
            shrink = {"stride": 2, "padding": "VALID", "init": trunc_normal}
            layers = [LayerNorm(cin, eps=1e-6), conv(cin, dim, 2, **shrink, **options)]
        self.downsample = Slots(layers) if layers else None
        self.blocks = Slots([Block(dim, **options) for _ in range(depth)])

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 c"]:
        for layer in self.downsample or ():
            x = layer(x)
        for block in self.blocks:
            x = block(x)
        return x


class ConvNeXt(nnx.Module):
    """Images to four feature maps, at 1/4 to 1/32 of the size, the finest first. Sizes must be
    divisible by 32."""

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        options: Options = {"rngs": rngs, "dtype": dtype}
        self.dtype, self.widths = dtype, tuple(widths)
        stem = conv(3, widths[0], 4, stride=4, padding="VALID", init=trunc_normal, **options)
        self.stem = Slots([stem, LayerNorm(widths[0], eps=1e-6)])
        inputs = [widths[0], *widths[:-1]]
        sizes = zip(inputs, widths, depths, strict=True)
        self.stages = Slots([Stage(*each, **options) for each in sizes])

    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False, key: Any = None
    ) -> list[Float[Array, "b _h _w _c"]]:
        """Training makes no difference."""
        x, features = self.stem[1](self.stem[0](x.astype(self.dtype))), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def encoder(
    name: str, sizes: dict[str, Any], *, norm: str, drop_path: float, **options: Unpack[Options]
) -> ConvNeXt:
    """One of SIZES, for a segmenter; it has no norm to choose and drops no paths."""
    return ConvNeXt(**SIZES[name], **options)
