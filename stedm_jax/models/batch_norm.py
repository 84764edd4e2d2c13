"""Batch normalization, with the numerics and the names of torch.nn.BatchNorm2d.

    (1)  y = (x - mean) / sqrt(var + eps) * scale + bias
    (2)  running <- (1 - momentum) * running + momentum * batch
         (var: with n - 1, as PyTorch keeps it)

In training, mean and var of (1) are those of the batch: of the whole batch, since under jit with a
sharded batch axis a mean over that axis is one over all devices. Otherwise they are the running
ones. A norm that does not `track` keeps none and always takes those of the batch.

The running statistics are parameters like any others, so that they are saved, sharded and exported
with the rest, but their gradient is zero. A module made by `Functional.module(params)` is a
temporary copy; in training a layer puts the new statistics there, and the caller takes them out:

    net = network.module(params)
    logits = net(x, train=True)
    new = running_stats(net)      # the statistics only, to be laid over the parameters
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from stedm_jax.models.layers import GroupNorm

EPS, MOMENTUM = 1e-5, 0.1


class Statistic(nnx.Param):
    """A parameter that training replaces and no gradient changes."""


class BatchNorm(nnx.Module):
    """Equations (1) and (2) over all axes but the last; float32 inside, the dtype of `x` outside.

    Args:
        track: whether there are running statistics. scale: the one to begin with; ones when None.
    """

    def __init__(
        self,
        channels: int,
        *,
        track: bool = True,
        scale: Float[Array, " c"] | None = None,
    ):
        self.track = track
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32) if scale is None else scale)
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        if track:
            self.running_mean = Statistic(jnp.zeros(channels, jnp.float32))
            self.running_var = Statistic(jnp.ones(channels, jnp.float32))

    def __call__(
        self, x: Float[Array, "b *space c"], train: bool = False
    ) -> Float[Array, "b *space c"]:
        values, wide = x.astype(jnp.float32), (1,) * (x.ndim - 1) + (-1,)
        if train or not self.track:
            mean, var = self._of_batch(values)
        else:
            mean, var = lax.stop_gradient((self.running_mean[...], self.running_var[...]))
        factor = lax.rsqrt(var + EPS) * self.scale[...]
        out = (values - mean.reshape(wide)) * factor.reshape(wide) + self.bias[...].reshape(wide)
        return out.astype(x.dtype)

    def _of_batch(
        self, values: Float[Array, "b *space c"]
    ) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Mean and biased variance of the batch, which are also mixed into the running ones, if
        any."""
        number = values.size // values.shape[-1]
        axes = tuple(range(values.ndim - 1))
        mean = values.mean(axes)
        var = jnp.square(values - mean.reshape((1,) * len(axes) + (-1,))).mean(axes)
        if not self.track:
            return mean, var
        unbiased = var * (number / (number - 1))
        for kept, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            old = kept[...]
            kept[...] = lax.stop_gradient(old + MOMENTUM * (new - old))
        return mean, var


def make_norm(kind: str, channels: int) -> BatchNorm | GroupNorm:
    """A "batch" or "group" norm; both have `scale` and `bias`, and are called with (x, train)."""
    return BatchNorm(channels) if kind == "batch" else GroupNorm(channels)


def running_stats(module: nnx.Module) -> dict[str, Any]:
    """Nested dict of the running statistics of a module, and of nothing else; empty if it has
    none."""
    return nnx.to_pure_dict(nnx.state(module, Statistic))
