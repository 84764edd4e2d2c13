"""ConvNeXt (Liu et al., CVPR 2022) as an encoder: four feature maps, named as in timm.

smp writes the same parameters under `encoder.model.stem_0` and `encoder.model.stages_0`
(convert/tables/convnext.py). Counts without the classifier: Tiny 27,818,592; Small 49,453,152; Base
87,564,416. Stochastic depth, which the published training uses and timm's networks leave out by
default, is left out.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.layers import LayerNorm, Maker, Mlp, Slots, trunc_normal
from stedm_jax.models.named_networks import named_sizes

SIZES = named_sizes("convnext")
LAYER_SCALE = 1e-6


class Block(nnx.Module):
    """x + gamma * mlp(norm(depth-wise 7x7 convolution of x))."""

    def __init__(self, make: Maker, dim: int):
        self.dtype = make.dtype
        self.conv_dw = nnx.Conv(
            dim,
            dim,
            (7, 7),
            padding=((3, 3), (3, 3)),
            feature_group_count=dim,
            kernel_init=trunc_normal,
            rngs=make.rngs,
            dtype=make.dtype,
        )
        self.norm = LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(make, dim, 4 * dim)
        self.gamma = nnx.Param(jnp.full(dim, LAYER_SCALE, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        gamma = self.gamma[...].astype(self.dtype)[None, None, None]
        return x + self.mlp(self.norm(self.conv_dw(x))) * gamma


class Stage(nnx.Module):
    """A norm and a strided convolution, where the width changes; then the blocks."""

    def __init__(self, make: Maker, cin: int, dim: int, depth: int):
        layers = []
        if cin != dim:
            shrink = {"stride": 2, "padding": "VALID", "init": trunc_normal}
            layers = [LayerNorm(cin, eps=1e-6), make.conv(cin, dim, 2, **shrink)]
        self.downsample = Slots(layers) if layers else None
        self.blocks = Slots([Block(make, dim) for _ in range(depth)])

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
        make: Maker,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
    ):
        self.dtype, self.widths = make.dtype, tuple(widths)
        stem = make.conv(3, widths[0], 4, stride=4, padding="VALID", init=trunc_normal)
        self.stem = Slots([stem, LayerNorm(widths[0], eps=1e-6)])
        inputs = [widths[0], *widths[:-1]]
        sizes = zip(inputs, widths, depths, strict=True)
        self.stages = Slots([Stage(make, *each) for each in sizes])

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
    make: Maker, name: str, sizes: dict[str, Any], *, norm: str, drop_path: float
) -> ConvNeXt:
    """One of SIZES, for a segmenter; it has no norm to choose and drops no paths."""
    return ConvNeXt(make, **SIZES[name])
