"""The training objective: noise, distance, weight.

    x_t = alpha_t x_0 + sigma_t eps                                               (1)
    loss = mean_b w(t_b) mean_pixels d(prediction, target),  d = |.| or (.)^2     (2)

Min-SNR weighting (Hang et al. 2023) clips the weight of the *x0* loss, w_x0 = min(snr, gamma).
Since the error of x_0 is sigma / alpha times the error of eps and sigma times the error of v, the
same objective has, in terms of what the network predicts,

    w_x0 = min(snr, gamma),  w_eps = min(snr, gamma) / snr,  w_v = min(snr, gamma) / (snr + 1)  (3)

At snr = 0 the limits are 0, 1 and 0. So with zero terminal SNR, w_x0 and w_v leave the very last
level untrained although sampling starts there: prefer "uniform" in that case. (3) is derived for
the squared distance; for l1 the same weights are applied as they are.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stedm_jax.diffusion.parameterization import levels
from stedm_jax.diffusion.schedule import Schedule


def add_noise(
    schedule: Schedule,
    x0: Float[Array, "b *shape"],
    eps: Float[Array, "b *shape"],
    t: Int[Array, " b"],
) -> Float[Array, "b *shape"]:
    """x_t of equation 1, float32."""
    alpha, sigma = levels(schedule, t, x0.ndim)
    return alpha * x0.astype(jnp.float32) + sigma * eps.astype(jnp.float32)


def distance(
    name: str,
    pred: Float[Array, "b *shape"],
    target: Float[Array, "b *shape"],
    places: Float[Array, "b *places"] | None = None,
) -> Float[Array, " b"]:
    """Mean l1 or l2 distance of each example over all its other axes, in float32.

    `places`, weights whose shape goes with that of the examples, weigh the distances before.
    """
    error = pred.astype(jnp.float32) - target.astype(jnp.float32)
    error = jnp.abs(error) if name == "l1" else jnp.square(error)
    if places is not None:
        error = error * places
    return jnp.mean(error.reshape(error.shape[0], -1), axis=1)


def weight(
    name: str, schedule: Schedule, kind: str, t: Int[Array, " b"], gamma: float = 5.0
) -> Float[Array, " b"]:
    """w(t) of equation 2 for a network that predicts `kind`: 1, or equation 3; float32."""
    snr = schedule.snr(t)
    if name == "uniform":
        return jnp.ones_like(snr)
    clipped = jnp.minimum(snr, gamma)
    if kind == "x0":
        return clipped
    if kind == "v":
        return clipped / (snr + 1.0)
    return jnp.where(snr > gamma, gamma / jnp.maximum(snr, gamma), 1.0)
