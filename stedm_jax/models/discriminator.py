"""PatchGAN: one logit for each patch, real or made (Isola et al., CVPR 2017), with the names of
taming-transformers.

    conv, leaky | (conv, norm, leaky) x layers | conv to 1 channel
    4x4, stride 2 but in the last two, leaky 0.2

With 3 layers of 64 filters: 2.8 M parameters, patches of 70 pixels. The norm is
    "batch"  as published; the statistics are always those of the batch at hand: it serves in
             training alone, where the published one has no other, and nothing needs to be kept
    "group"  of each image by itself, for small batches
    "none"
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from stedm_jax.models.batch_norm import BatchNorm
from stedm_jax.models.layers import GroupNorm, Maker, Slots

DISCRIMINATOR = "discriminator"
"""Where its parameters stand beside those of the autoencoder that it trains."""
init = nnx.initializers.normal(0.02)


def own(params: PyTree) -> PyTree:
    """The autoencoder's own parameters, of those of its training."""
    return {name: value for name, value in params.items() if name != DISCRIMINATOR}


class Discriminator(nnx.Module):
    """Images in [-1, 1] to logits of patches, float32; positive is real.

    Args:
        filters: of the first layer; they double, up to eight times.
        layers: how often the size is halved.
        norm: as the module's docstring says.
    """

    def __init__(
        self,
        make: Maker,
        *,
        filters: int = 64,
        layers: int = 3,
        norm: str = "batch",
    ):
        kw = {"padding": ((1, 1), (1, 1)), "init": init}
        self.dtype = make.dtype
        main: dict[int, nnx.Module] = {0: make.conv(3, filters, 4, stride=2, **kw)}
        number, channels = 2, filters
        for layer in range(1, layers + 1):
            cout = filters * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            main[number] = make.conv(channels, cout, 4, stride=stride, bias=norm != "batch", **kw)
            if norm != "none":
                main[number + 1] = batch_norm(make, cout) if norm == "batch" else GroupNorm(cout)
            number, channels = number + 3, cout
        main[number] = make.conv(channels, 1, 4, **kw)
        self.main, self.layers, self.norm = Slots(main), layers, norm

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 1"]:
        h = leaky(self.main[0](x.astype(self.dtype)))
        for layer in range(self.layers):
            h = self.main[2 + 3 * layer](h)
            h = leaky(h if self.norm == "none" else self.main[3 + 3 * layer](h))
        return self.main[2 + 3 * self.layers](h).astype(jnp.float32)


def batch_norm(make: Maker, channels: int) -> BatchNorm:
    """By the batch at hand; begins with scales spread around 1, as published."""
    scale = 1.0 + init(make.key(), (channels,), jnp.float32)
    return BatchNorm(channels, track=False, scale=scale)


def leaky(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """ReLU that lets a fifth of what is negative through."""
    return nnx.leaky_relu(x, 0.2)


def hinge(real: Float[Array, "*n"], made: Float[Array, "*n"]) -> Float[Array, ""]:
    """What the discriminator minimizes: 1/2 mean relu(1 - real) + 1/2 mean relu(1 + made)."""
    return 0.5 * (nnx.relu(1.0 - real).mean() + nnx.relu(1.0 + made).mean())
