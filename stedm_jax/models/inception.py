"""Inception-v3 as the Frechet inception distance uses it (Szegedy et al. 2015; the graph of
2015-12-05).

    unit   relu((conv(x) - mean) / sqrt(var + 0.001) + beta)                                 (1)

The batch norms have no gamma and never change. It departs from the network of torchvision in the
poolings of its
blocks: means leave the padding out of the count, and the last block (mixed_10) takes the maximum
  instead. Names are
those of the graph. 21.8 M parameters, (b, 299, 299, 3) in [-1, 1) to (b, 2048), which are not
negative.
"""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stedm_jax.models.layers import torch_init

EPS = 1e-3
SIDE, FEATURES = 299, 2048
SMALLEST = 75  # below, the last blocks have no position left

# A unit is (channels, height, width) of its kernel; a stem unit has stride and whether it is padded
# besides.
STEM = (
    (32, 3, 2, False),
    (32, 3, 1, False),
    (64, 3, 1, True),
    (80, 1, 1, False),
    (192, 3, 1, False),
)
POOLED = (2, 4)  # a maximum follows these


class Unit(nnx.Module):
    """Equation (1), in float32 behind the convolution; padded to keep the size unless `valid`."""

    def __init__(
        self,
        cin: int,
        cout: int,
        height: int = 1,
        width: int = 1,
        *,
        stride: int = 1,
        valid: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.stride, self.dtype = stride, dtype
        self.padding = (
            ((0, 0), (0, 0)) if valid else ((height // 2, height // 2), (width // 2, width // 2))
        )
        self.kernel = nnx.Param(torch_init(rngs.params(), (height, width, cin, cout), jnp.float32))
        self.beta = nnx.Param(jnp.zeros(cout, jnp.float32))
        self.mean = nnx.Param(jnp.zeros(cout, jnp.float32))
        self.var = nnx.Param(jnp.ones(cout, jnp.float32))

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        h = lax.conv_general_dilated(
            x,
            self.kernel[...].astype(self.dtype),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        wide = (1, 1, 1, -1)
        factor = lax.rsqrt(self.var[...] + EPS)
        shift = self.beta[...] - self.mean[...] * factor
        return nnx.relu(h.astype(jnp.float32) * factor.reshape(wide) + shift.reshape(wide)).astype(
            self.dtype
        )


class Chain(nnx.Module):
    """Units one after another, named conv, conv_1, conv_2 and so on; with `halve` the last one has
    stride 2."""

    def __init__(
        self,
        cin: int,
        *units: tuple[int, ...],
        halve: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.names = tuple(f"conv_{number}" if number else "conv" for number in range(len(units)))
        for name, (cout, *size) in zip(self.names, units, strict=True):
            last = halve and name == self.names[-1]
            unit = Unit(
                cin, cout, *size, stride=2 if last else 1, valid=last, rngs=rngs, dtype=dtype
            )
            setattr(self, name, unit)
            cin = cout

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class Mixed(nnx.Module):
    """A block of parallel branches: a unit, one or two chains, a pooling.

    Args:
      conv, tower, tower_1: units of the branches; none: no such branch.
      pooled: channels of the unit after the mean (tower_2); 0: the size is halved, and the maximum
        stays as it is.
    """

    def __init__(
        self,
        cin: int,
        *,
        conv: tuple[int, ...] = (),
        tower: tuple[tuple[int, ...], ...],
        tower_1: tuple[tuple[int, ...], ...] = (),
        pooled: int = 0,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        kw, halve = {"rngs": rngs, "dtype": dtype}, not pooled
        self.conv = Unit(cin, *conv, stride=2 if halve else 1, valid=halve, **kw) if conv else None
        self.tower = Chain(cin, *tower, halve=halve, **kw)
        self.tower_1 = Chain(cin, *tower_1, halve=halve, **kw) if tower_1 else None
        self.tower_2 = Chain(cin, (pooled,), **kw) if pooled else None

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        branches = [
            branch(x) for branch in (self.conv, self.tower, self.tower_1) if branch is not None
        ]
        last = halved(x) if self.tower_2 is None else self.tower_2(mean_pool(x))
        return jnp.concatenate([*branches, last], axis=-1)


class Wide(nnx.Module):
    """The last blocks: chains that fork into a row and a column, and a pooling."""

    def __init__(self, cin: int, *, maximum: bool, rngs: nnx.Rngs, dtype: DTypeLike):
        kw = {"rngs": rngs, "dtype": dtype}
        self.maximum = maximum
        self.conv = Unit(cin, 320, **kw)
        self.tower_conv = Unit(cin, 384, **kw)
        self.tower_mixed_conv = Unit(384, 384, 1, 3, **kw)
        self.tower_mixed_conv_1 = Unit(384, 384, 3, 1, **kw)
        self.tower_1_conv = Unit(cin, 448, **kw)
        self.tower_1_conv_1 = Unit(448, 384, 3, 3, **kw)
        self.tower_1_mixed_conv = Unit(384, 384, 1, 3, **kw)
        self.tower_1_mixed_conv_1 = Unit(384, 384, 3, 1, **kw)
        self.tower_2_conv = Unit(cin, 192, **kw)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        a, b = self.tower_conv(x), self.tower_1_conv_1(self.tower_1_conv(x))
        pooled = (
            nnx.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
            if self.maximum
            else mean_pool(x)
        )
        forks = [self.tower_mixed_conv(a), self.tower_mixed_conv_1(a)]
        forks += [self.tower_1_mixed_conv(b), self.tower_1_mixed_conv_1(b)]
        return jnp.concatenate([self.conv(x), *forks, self.tower_2_conv(pooled)], axis=-1)


def mean_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Mean over those of the 3x3 neighbours that are inside."""
    return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Maximum over 3x3, stride 2, not padded."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2))


class Inception(nnx.Module):
    """The features that FID and its kin compare."""

    def __init__(self, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        kw, self.dtype, cin = {"rngs": rngs, "dtype": dtype}, dtype, 3
        for number, (cout, side, stride, padded) in enumerate(STEM):
            unit = Unit(cin, cout, side, side, stride=stride, valid=not padded, **kw)
            setattr(self, f"conv_{number}" if number else "conv", unit)
            cin = cout
        small = {
            "conv": (64,),
            "tower": ((48,), (64, 5, 5)),
            "tower_1": ((64,), (96, 3, 3), (96, 3, 3)),
        }
        self.mixed = Mixed(192, **small, pooled=32, **kw)
        self.mixed_1 = Mixed(256, **small, pooled=64, **kw)
        self.mixed_2 = Mixed(288, **small, pooled=64, **kw)
        self.mixed_3 = Mixed(288, conv=(384, 3, 3), tower=((64,), (96, 3, 3), (96, 3, 3)), **kw)
        for number, c in zip((4, 5, 6, 7), (128, 160, 160, 192), strict=True):
            tower = ((c,), (c, 1, 7), (192, 7, 1))
            tower_1 = ((c,), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))
            block = Mixed(768, conv=(192,), tower=tower, tower_1=tower_1, pooled=192, **kw)
            setattr(self, f"mixed_{number}", block)
        tower_1 = ((192,), (192, 1, 7), (192, 7, 1), (192, 3, 3))
        self.mixed_8 = Mixed(768, tower=((192,), (320, 3, 3)), tower_1=tower_1, **kw)
        self.mixed_9 = Wide(1280, maximum=False, **kw)
        self.mixed_10 = Wide(2048, maximum=True, **kw)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Features, float32. ValueError for sides of less than 75 pixels; the published size is
        299."""
        if min(x.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"Inception needs images of {SMALLEST} pixels a side and more, not {x.shape[1:3]}"
            )
        x = x.astype(self.dtype)
        for number in range(len(STEM)):
            x = getattr(self, f"conv_{number}" if number else "conv")(x)
            x = halved(x) if number in POOLED else x
        for number in range(11):
            x = getattr(self, f"mixed_{number}" if number else "mixed")(x)
        return x.astype(jnp.float32).mean((1, 2))
