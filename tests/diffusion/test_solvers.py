"""Solvers of higher order, against the closed form of the flow of Gaussian data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.diffusion.parameterization import levels as at
from stedm_jax.diffusion.parameterization import target
from stedm_jax.diffusion.samplers import SAMPLERS, Sampler, sample, timesteps
from stedm_jax.diffusion.schedule import Schedule, make_schedule

SPREAD = 0.3
NEW = ("dpmpp_3m", "unipc_2", "unipc_3", "heun")


def best_guess(alpha, sigma, x):
    """E[x_0 | x] of data ~ N(0, SPREAD^2)."""
    return alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x


def run(plan, alpha, sigma, x):
    """A plan in float64 with the exact denoiser, level by level; `sample` for numbers."""
    begun, past = x, [0.0 * x] * plan.history
    fixes = plan.corrections
    for row, (t, step) in enumerate(zip(plan.timesteps, plan.steps, strict=True)):
        seen = [best_guess(alpha[t], sigma[t], x), *past]
        if fixes is not None:
            x = fixes[row][0] * x + fixes[row][1] * begun + np.tensordot(fixes[row][2:], seen, 1)
            begun = x
        x = step[0] * x + np.tensordot(step[1:-1], seen, 1)
        past = seen[: plan.history]
    return x


def flow_error(name, steps):
    """Relative error at lambda = 2 of the flow from lambda = -3, in even steps of lambda."""
    lam = np.linspace(-3.0, 2.0, steps + 1)[::-1]
    alpha_bar = 1 / (1 + np.exp(-2 * lam))
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    schedule = Schedule(alpha_bar)  # level 0 is where the flow ends
    falling = np.arange(steps, 0, -1, dtype=np.int32)
    plan = SAMPLERS[name](schedule, falling, 0.0, float(alpha_bar[0]))
    exact = np.hypot(alpha[0] * SPREAD, sigma[0]) / np.hypot(alpha[-1] * SPREAD, sigma[-1])
    return abs(run(plan, alpha, sigma, 1.0) / exact - 1)


@pytest.mark.parametrize(
    ("name", "order"),
    [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2), ("dpmpp_3m", 3), ("unipc_2", 3), ("unipc_3", 4)],
)
def test_errors_fall_as_the_order_says(name, order):
    """Orders 3 and 4 of UniPC count its corrector; the first steps are of lower order."""
    few, many = flow_error(name, 20), flow_error(name, 40)
    assert np.log2(few / many) > order - 0.2
    if name in ("ddim", "heun", "dpmpp_2m", "dpmpp_3m"):
        assert np.log2(few / many) < order + 0.5


def test_higher_orders_pay_at_equal_evaluations():
    errors = {name: flow_error(name, 10 if name == "heun" else 20) for name in SAMPLERS}
    assert errors["unipc_3"] < errors["unipc_2"] < errors["dpmpp_2m"] < errors["ddim"]
    assert errors["dpmpp_3m"] < errors["dpmpp_2m"] < errors["heun"] < errors["ddim"]


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("zero", [False, True])
def test_the_scan_runs_the_plan(name, zero):
    schedule = make_schedule("cosine", zero_terminal_snr=zero)
    t = timesteps("uniform_lambda", 12, schedule)
    alpha, sigma = schedule.alpha_bar**0.5, (1 - schedule.alpha_bar) ** 0.5

    def denoise(x, t):
        a, s = at(schedule, t, x.ndim)
        clean = best_guess(a, s, x)
        return target(schedule, "v", clean, (x - a * clean) / s, t)

    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    made = jax.jit(lambda x: sample(denoise, schedule, x, t, Sampler(name), "v"))(x)
    plan = Sampler(name).plan(schedule, t)
    np.testing.assert_allclose(made, run(plan, alpha, sigma, np.asarray(x, float)), atol=2e-5)
    assert float(jnp.max(jnp.abs(made))) == pytest.approx(SPREAD, rel=0.2)


def test_heun_sees_every_level_but_the_first_twice():
    t = timesteps("uniform_lambda", 5, make_schedule())
    seen = Sampler("heun").plan(make_schedule(), t).timesteps
    np.testing.assert_array_equal(seen, [t[0], *np.repeat(t[1:], 2)])
    zero = make_schedule(zero_terminal_snr=True)
    seen = Sampler("heun").plan(zero, t).timesteps  # Euler from the level without signal
    np.testing.assert_array_equal(seen, [t[0], t[1], *np.repeat(t[2:], 2)])


def test_fresh_noise_of_an_image_depends_on_its_key_alone():
    schedule, t = make_schedule(), timesteps("linspace", 6, make_schedule())
    x = jnp.ones((4, 3))
    keys = jax.random.split(jax.random.key(0), 4)

    def made(rows):
        given = x[rows], t, Sampler("ddim", 1.0), "x0"
        return sample(lambda x, t: 0.5 * x, schedule, *given, keys=keys[rows])

    whole = made(jnp.arange(4))
    np.testing.assert_array_equal(whole[jnp.array([2, 0])], made(jnp.array([2, 0])))
    assert len(np.unique(np.asarray(whole)[:, 0])) == 4


@pytest.mark.parity
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps", [5, 20])
def test_unipc_as_diffusers(order, steps):
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    from tests.peers import torch

    schedule = make_schedule()
    betas = 1 - schedule.alpha_bar / np.append(1.0, schedule.alpha_bar[:-1])
    theirs: Any = UniPCMultistepScheduler(
        trained_betas=betas,
        solver_order=order,
        prediction_type="epsilon",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    theirs.set_timesteps(steps)
    t = theirs.timesteps.numpy().astype(np.int32)

    def network(x, t, sin):
        return 0.9 * x + 0.2 * sin(2.0 * x + 0.01 * t)

    x = np.linspace(-1.5, 1.5, 8, dtype=np.float32).reshape(2, 4)
    state = torch.from_numpy(x.copy())
    for level in theirs.timesteps:
        state = theirs.step(network(state, float(level), torch.sin), level, state).prev_sample

    def denoise(x, t):
        return network(x, t[:, None].astype(jnp.float32), jnp.sin)

    ours = sample(denoise, schedule, jnp.asarray(x), t, Sampler(f"unipc_{order}"), "eps")
    np.testing.assert_allclose(ours, state.numpy(), rtol=2e-3, atol=2e-3)
