"""Sampling that starts from an image: noised to a level below the last, or inverted.

Noised to level t (SDEdit, Meng et al. 2022): x_t = alpha_t x_0 + sigma_t eps, sampled from there.

DDIM inversion (Song et al. 2021, section 4.3) runs the deterministic sampler from clean to noisy,
with D_t the clean image that the denoiser sees in x_t, and s the next noisier level:

    x_s = alpha_s D_t + (sigma_s / sigma_t) (x_t - alpha_t D_t)                   (1)

It begins at the lowest level of the schedule, where x = alpha x_0 without noise. Sampling from the
result under the same condition returns x_0, up to the error of finite steps.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from stedm_jax.diffusion.parameterization import to_x0
from stedm_jax.diffusion.samplers import Denoise, timesteps
from stedm_jax.diffusion.schedule import Schedule


def partial_timesteps(
    kind: str, steps: int, schedule: Schedule, strength: float, tail: Sequence[int] = ()
) -> Int32[np.ndarray, " n"]:
    """As `samplers.timesteps`, from the level nearest to `strength` of the schedule on, with that
    share of the steps."""
    levels = max(1, round(strength * schedule.steps))
    lower = Schedule(schedule.alpha_bar[:levels])
    return timesteps(kind, max(1, round(strength * steps)), lower, tail)


def noised(
    schedule: Schedule, x_0: Float[Array, "b *shape"], noise: Float[Array, "b *shape"], t: int
) -> Float[Array, "b *shape"]:
    """x_0 with noise, at level t."""
    return schedule.alpha[t] * x_0 + schedule.sigma[t] * noise


def inversion_levels(levels: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " m"]:
    """The levels that inversion runs through: those of sampling, rising, from level 0."""
    return np.union1d(levels, [0]).astype(np.int32)


def invert(
    denoise: Denoise,
    schedule: Schedule,
    x_0: Float[Array, "b *shape"],
    levels: Int32[np.ndarray, " n"],
    kind: str,
) -> Float[Array, "b *shape"]:
    """The noise, at level levels[0], from which a deterministic sampler returns about x_0.

    Args:
      denoise: as of `samplers.sample`, without guidance.
      schedule: of the noise.
      x_0: clean, float32.
      levels: timesteps of the sampler, falling.
      kind: what the network predicts.
    """
    rising = inversion_levels(levels)
    alpha, sigma = schedule.alpha[rising], schedule.sigma[rising]
    a = sigma[1:] / sigma[:-1]
    table = np.stack([a, alpha[1:] - a * alpha[:-1]], axis=1)

    def step(x: Array, xs: tuple[Array, Array]) -> tuple[Array, None]:
        t, (a, b) = xs
        at: Int[Array, " b"] = jnp.full((x.shape[0],), t, jnp.int32)
        return a * x + b * to_x0(schedule, kind, denoise(x, at), x, at), None

    xs = (jnp.asarray(rising[:-1]), jnp.asarray(table))
    return jax.lax.scan(step, schedule.alpha[0] * x_0.astype(jnp.float32), xs)[0]
