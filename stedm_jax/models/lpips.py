"""LPIPS, the learned distance of two images (Zhang et al., CVPR 2018), version 0.1 with AlexNet.

    f_l = features after ReLU l of 5, each divided by its length over channels               (1)
    d   = sum_l mean_positions  w_l . (f_l(x) - f_l(y))^2,   w_l >= 0                        (2)

Images are in [-1, 1]; a fixed shift and scale then makes them what AlexNet was trained on. 2.5 M
parameters, names of the published package (`net.slice1.0`, `lin0.model.1`).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.layers import Maker, Slots

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# slice, number in AlexNet, output channels, kernel, stride, padding; a maximum of 3x3, stride 2,
# before these two
LAYERS = (
    (1, 0, 64, 11, 4, 2),
    (2, 3, 192, 5, 1, 2),
    (3, 6, 384, 3, 1, 1),
    (4, 8, 256, 3, 1, 1),
    (5, 10, 256, 3, 1, 1),
)
POOLED = (2, 3)
EPS = 1e-10
SMALLEST = 31  # below, a feature has no position left


class AlexNet(nnx.Module):
    """The five convolutions of AlexNet, each in a slice of its own."""

    def __init__(self, make: Maker):
        cin = 3
        for slice_, number, cout, size, stride, pad in LAYERS:
            place = {"stride": stride, "padding": ((pad, pad),) * 2}
            layer = make.conv(cin, cout, size, **place)
            setattr(self, f"slice{slice_}", Slots({number: layer}))
            cin = cout

    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        """The five features of equation (1), not yet divided."""
        out = []
        for slice_, number, *_ in LAYERS:
            if slice_ in POOLED:
                x = nnx.max_pool(x, (3, 3), strides=(2, 2))
            x = nnx.relu(getattr(self, f"slice{slice_}")[number](x))
            out.append(x)
        return out


class Head(nnx.Module):
    """w_l of equation (2); a dropout, number 0, precedes it in the published training."""

    def __init__(self, make: Maker, channels: int):
        self.model = Slots({1: Maker(make.rngs).conv(channels, 1, 1, bias=False)})

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
        return self.model[1](x)


class LPIPS(nnx.Module):
    """Distance of pairs of images in [-1, 1]: 0 for equal ones, about 1 for unrelated ones."""

    def __init__(self, make: Maker):
        self.dtype = make.dtype
        self.net = AlexNet(make)
        for level, (_, _, channels, *_) in enumerate(LAYERS):
            setattr(self, f"lin{level}", Head(make, channels))

    def __call__(
        self, x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"]
    ) -> Float[Array, " b"]:
        """Equation (2) for each pair of images with sides of SMALLEST and more; float32."""
        assert min(x.shape[1:3]) >= SMALLEST
        total = jnp.zeros(x.shape[0], jnp.float32)
        pairs = zip(self._features(x), self._features(y), strict=True)
        for level, (one, other) in enumerate(pairs):
            weighted = getattr(self, f"lin{level}")(jnp.square(one - other))
            total = total + weighted.mean((1, 2, 3))
        return total

    def _features(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        shift, scale = jnp.array((SHIFT, SCALE), jnp.float32)[:, None, None, None, :]
        return [_unit(feature) for feature in self.net(((x - shift) / scale).astype(self.dtype))]


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Equation (1). The square inside the root keeps the gradient finite where all channels are
    0."""
    x = x.astype(jnp.float32)
    length = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + jnp.float32(EPS**2))
    return x / (length + EPS)
