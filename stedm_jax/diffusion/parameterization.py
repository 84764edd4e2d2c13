"""What the network predicts, and how to turn it into the clean image.

With x_t = alpha x_0 + sigma eps and alpha^2 + sigma^2 = 1 (schedule.py):

    eps   the noise                                                               (1)
    x0    the clean image                                                         (2)
    v     alpha eps - sigma x_0            (Salimans and Ho 2022)                 (3)

    from eps:  x_0 = (x_t - sigma eps) / alpha                                    (4)
    from v:    x_0 = alpha x_t - sigma v                                          (5)

(4) has no answer where alpha = 0 (zero terminal SNR): x_t holds nothing of x_0 there, and eps = x_t
says nothing more. The division is kept finite by a floor, so that no NaN can spread, but a model
that must start from such a level has to predict v or x0; samplers.py refuses eps there. (5) needs
no division and is exact everywhere.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stedm_jax.diffusion.schedule import Schedule

FLOOR = 1e-4


def levels(
    schedule: Schedule, t: Int[Array, " b"], ndim: int
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """alpha and sigma at t, float32, with trailing axes of length 1 up to `ndim` axes."""
    shape = (t.shape[0],) + (1,) * (ndim - 1)
    alpha, sigma = schedule.at(t)
    return alpha.reshape(shape), sigma.reshape(shape)


def target(
    schedule: Schedule,
    kind: str,
    x0: Float[Array, "b *shape"],
    eps: Float[Array, "b *shape"],
    t: Int[Array, " b"],
) -> Float[Array, "b *shape"]:
    """What the network of this kind should have predicted (eqs. 1 to 3), float32."""
    x0, eps = x0.astype(jnp.float32), eps.astype(jnp.float32)
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    assert kind == "v", kind
    alpha, sigma = levels(schedule, t, x0.ndim)
    return alpha * eps - sigma * x0


def to_x0(
    schedule: Schedule,
    kind: str,
    pred: Float[Array, "b *shape"],
    x_t: Float[Array, "b *shape"],
    t: Int[Array, " b"],
) -> Float[Array, "b *shape"]:
    """The clean image that a prediction means (eqs. 4 and 5), float32."""
    pred, x_t = pred.astype(jnp.float32), x_t.astype(jnp.float32)
    if kind == "x0":
        return pred
    alpha, sigma = levels(schedule, t, x_t.ndim)
    if kind == "v":
        return alpha * x_t - sigma * pred
    assert kind == "eps", kind
    return (x_t - sigma * pred) / jnp.maximum(alpha, FLOOR)
