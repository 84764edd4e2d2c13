"""Inception-v3 as the Frechet inception distance uses it (Szegedy et al. 2015; the graph of
2015-12-05).

    unit   relu((conv(x) - mean) / sqrt(var + 0.001) + beta)                                 (1)

The batch norms have no gamma and never change. It departs from the network of torchvision in the
poolings of its blocks: means leave the padding out of the count, and the last block (mixed_10)
takes the maximum instead. Names are those of the graph: conv, conv_1, conv_2 and so on. 21.8 M
parameters, (b, 299, 299, 3) in [-1, 1) to (b, 2048), which are not negative.
"""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from stedm_jax.models.layers import Maker, torch_init

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
        make: Maker,
        cin: int,
        cout: int,
        height: int = 1,
        width: int = 1,
        *,
        stride: int = 1,
        valid: bool = False,
    ):
        self.stride, self.dtype = stride, make.dtype
        self.padding = [(0, 0) if valid else (size // 2, size // 2) for size in (height, width)]
        key = make.key()
        self.kernel = nnx.Param(torch_init(key, (height, width, cin, cout), jnp.float32))
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
        factor = lax.rsqrt(self.var[...] + EPS)
        shift = self.beta[...] - self.mean[...] * factor
        factor, shift = factor.reshape(1, 1, 1, -1), shift.reshape(1, 1, 1, -1)
        return nnx.relu(h.astype(jnp.float32) * factor + shift).astype(self.dtype)


class Chain(nnx.Module):
    """Units one after another; with `halve` the last one has stride 2."""

    def __init__(self, make: Maker, cin: int, *units: tuple[int, ...], halve: bool = False):
        self.units = len(units)
        for number, (cout, *size) in enumerate(units, start=1):
            last = halve and number == len(units)
            unit = Unit(make, cin, cout, *size, stride=1 + last, valid=last)
            setattr(self, _name("conv", number - 1), unit)
            cin = cout

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        for number in range(self.units):
            x = getattr(self, _name("conv", number))(x)
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
        make: Maker,
        cin: int,
        *,
        conv: tuple[int, ...] = (),
        tower: tuple[tuple[int, ...], ...],
        tower_1: tuple[tuple[int, ...], ...] = (),
        pooled: int = 0,
    ):
        halve = not pooled
        self.conv = Unit(make, cin, *conv, stride=1 + halve, valid=halve) if conv else None
        self.tower = Chain(make, cin, *tower, halve=halve)
        self.tower_1 = Chain(make, cin, *tower_1, halve=halve) if tower_1 else None
        self.tower_2 = Chain(make, cin, (pooled,)) if pooled else None

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        branches = [each for each in (self.conv, self.tower, self.tower_1) if each is not None]
        last = halved(x) if self.tower_2 is None else self.tower_2(mean_pool(x))
        return jnp.concatenate([*(branch(x) for branch in branches), last], axis=-1)


class Wide(nnx.Module):
    """The last blocks: chains that fork into a row and a column, and a pooling."""

    def __init__(self, make: Maker, cin: int, *, maximum: bool):
        self.maximum = maximum
        self.conv = Unit(make, cin, 320)
        self.tower_conv = Unit(make, cin, 384)
        self.tower_mixed_conv = Unit(make, 384, 384, 1, 3)
        self.tower_mixed_conv_1 = Unit(make, 384, 384, 3, 1)
        self.tower_1_conv = Unit(make, cin, 448)
        self.tower_1_conv_1 = Unit(make, 448, 384, 3, 3)
        self.tower_1_mixed_conv = Unit(make, 384, 384, 1, 3)
        self.tower_1_mixed_conv_1 = Unit(make, 384, 384, 3, 1)
        self.tower_2_conv = Unit(make, cin, 192)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        a, b = self.tower_conv(x), self.tower_1_conv_1(self.tower_1_conv(x))
        pooled = max_pool(x) if self.maximum else mean_pool(x)
        forks = [self.tower_mixed_conv(a), self.tower_mixed_conv_1(a)]
        forks += [self.tower_1_mixed_conv(b), self.tower_1_mixed_conv_1(b)]
        return jnp.concatenate([self.conv(x), *forks, self.tower_2_conv(pooled)], axis=-1)


def mean_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Mean over those of the 3x3 neighbors that are inside."""
    return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Maximum over those of the 3x3 neighbors that are inside."""
    return nnx.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Maximum over 3x3, stride 2, not padded."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2))


class Inception(nnx.Module):
    """The features that FID and its kin compare."""

    def __init__(self, make: Maker):
        self.dtype, cin = make.dtype, 3
        for number, (cout, side, stride, padded) in enumerate(STEM):
            unit = Unit(make, cin, cout, side, side, stride=stride, valid=not padded)
            setattr(self, _name("conv", number), unit)
            cin = cout
        small = {
            "conv": (64,),
            "tower": ((48,), (64, 5, 5)),
            "tower_1": ((64,), (96, 3, 3), (96, 3, 3)),
        }
        self.mixed = Mixed(make, 192, **small, pooled=32)
        self.mixed_1 = Mixed(make, 256, **small, pooled=64)
        self.mixed_2 = Mixed(make, 288, **small, pooled=64)
        self.mixed_3 = Mixed(make, 288, conv=(384, 3, 3), tower=((64,), (96, 3, 3), (96, 3, 3)))
        for number, c in zip((4, 5, 6, 7), (128, 160, 160, 192), strict=True):
            tower = ((c,), (c, 1, 7), (192, 7, 1))
            tower_1 = ((c,), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))
            block = Mixed(make, 768, conv=(192,), tower=tower, tower_1=tower_1, pooled=192)
            setattr(self, _name("mixed", number), block)
        tower_1 = ((192,), (192, 1, 7), (192, 7, 1), (192, 3, 3))
        self.mixed_8 = Mixed(make, 768, tower=((192,), (320, 3, 3)), tower_1=tower_1)
        self.mixed_9 = Wide(make, 1280, maximum=False)
        self.mixed_10 = Wide(make, 2048, maximum=True)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Features, float32, of images with sides of SMALLEST and more; the published size is
        299."""
        assert min(x.shape[1:3]) >= SMALLEST
        x = x.astype(self.dtype)
        for number in range(len(STEM)):
            x = getattr(self, _name("conv", number))(x)
            x = halved(x) if number in POOLED else x
        for number in range(11):
            x = getattr(self, _name("mixed", number))(x)
        return x.astype(jnp.float32).mean((1, 2))


def _name(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind
