"""Samplers against the exact denoiser of Gaussian data, where the answer is known."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.diffusion.parameterization import levels, target
from stedm_jax.diffusion.samplers import (
    SAMPLERS,
    UNGUIDED,
    Sampler,
    check_end,
    sample,
    timesteps,
)
from stedm_jax.diffusion.schedule import make_schedule

MU, S = 0.7, 0.3
SCHEDULE = make_schedule()
KINDS = ("eps", "x0", "v")
SPACINGS = ("uniform_lambda", "linspace", "trailing", "uniform_stride")
DDIM, DPMPP_2M = Sampler("ddim"), Sampler("dpmpp_2m")


def exact(schedule, kind, mu=MU):
    """The best possible network for data ~ N(mu, S^2): E[x_0 | x_t] as a prediction of `kind`."""

    def denoise(x, t):
        alpha, sigma = levels(schedule, t, x.ndim)
        x0 = mu + alpha * S**2 / (alpha**2 * S**2 + sigma**2) * (x - alpha * mu)
        return target(schedule, kind, x0, (x - alpha * x0) / sigma, t)

    return denoise


def error(schedule, sampler, steps, kind="eps", spacing="uniform_lambda"):
    """Largest error of (mean, std). The flow is affine, so two starting points give both."""
    t = timesteps(spacing, steps, schedule)
    alpha, sigma = float(schedule.alpha[t[0]]), float(schedule.sigma[t[0]])
    z = jnp.array([[-1.0], [1.0]])
    x_T = alpha * MU + (alpha**2 * S**2 + sigma**2) ** 0.5 * z
    low, high = np.asarray(sample(exact(schedule, kind), schedule, x_T, t, sampler, kind))[:, 0]
    return max(abs((low + high) / 2 - MU), abs((high - low) / 2 - S))


@pytest.mark.parametrize("sampler", [*map(Sampler, SAMPLERS)], ids=lambda s: s.name)
def test_error_falls_with_steps(sampler):
    for spacing in ("uniform_lambda", "trailing"):
        few, some, many = (error(SCHEDULE, sampler, n, "eps", spacing) for n in (5, 50, 500))
        assert few > 2 * some
        assert some > 0.5 * many  # alike where both are down to the step below level 0
        assert many < 0.01


def test_second_order_wins_at_ten_steps():
    assert error(SCHEDULE, DPMPP_2M, 10) < 0.1 * error(SCHEDULE, DDIM, 10)
    assert error(SCHEDULE, DPMPP_2M, 10) < 0.005


def test_even_lambda_is_the_best_spacing_for_few_steps():
    errors = {kind: error(SCHEDULE, DPMPP_2M, 20, "eps", kind) for kind in SPACINGS}
    assert min(errors, key=errors.__getitem__) == "uniform_lambda"


def test_even_lambda_keeps_a_last_level_without_signal():
    schedule = make_schedule(zero_terminal_snr=True)
    t = timesteps("uniform_lambda", 12, schedule)
    assert t[0] == 999 and t[-1] == 0 and len(t) <= 12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [*map(Sampler, SAMPLERS)], ids=lambda s: s.name)
def test_all_parameterizations_agree(kind, sampler):
    assert error(SCHEDULE, sampler, 20, kind) == pytest.approx(
        error(SCHEDULE, sampler, 20, "v"), abs=1e-4
    )


@pytest.mark.parametrize("sampler", [DDIM, Sampler("ddim", 0.5), DPMPP_2M], ids=str)
def test_zero_terminal_snr_with_v(sampler):
    schedule = make_schedule(zero_terminal_snr=True)
    if sampler.eta == 0:
        assert error(schedule, sampler, 50, "v") < 0.02
    assert np.isfinite(sampler.plan(schedule, timesteps("trailing", 50, SCHEDULE)).steps).all()


def test_zero_terminal_snr_refuses_eps():
    schedule = make_schedule(zero_terminal_snr=True)
    with pytest.raises(UserError, match="predict v"):
        error(schedule, DDIM, 5, "eps")


def test_ancestral_noise_keeps_the_distribution():
    t = timesteps("linspace", 500, SCHEDULE)
    x_T = jax.random.normal(jax.random.key(0), (1024, 2))

    def run(seed):
        return sample(
            exact(SCHEDULE, "v"),
            SCHEDULE,
            x_T,
            t,
            Sampler("ddim", 1.0),
            "v",
            keys=jax.random.split(jax.random.key(seed), 1024),
        )

    x0 = run(1)
    assert float(x0.mean()) == pytest.approx(MU, abs=0.02)
    assert float(x0.std()) == pytest.approx(S, abs=0.02)
    np.testing.assert_array_equal(x0, run(1))
    assert not np.array_equal(x0, run(2))


def kept(variance, spacing, steps=10, tail=()):
    """Share of the standard deviation of Gaussian data, of mean 0, that is left of it."""
    schedule = make_schedule("cosine", zero_terminal_snr=True)
    alpha, sigma = schedule.alpha_bar**0.5, (1 - schedule.alpha_bar) ** 0.5
    t = timesteps(spacing, steps, schedule, tail)
    x, before = sigma[t[0]], 0.0  # pure noise of one standard deviation
    for level, (a, b, c, _) in zip(t, DPMPP_2M.plan(schedule, t).steps, strict=True):
        gain = alpha[level] * variance / (alpha[level] ** 2 * variance + sigma[level] ** 2)
        x, before = a * x + b * gain * x + c * before, gain * x
    return x / variance**0.5


def test_a_tail_at_low_noise_keeps_the_finest_detail():
    detail = [0.02, 0.005]
    alone = [kept(variance, "trailing") for variance in detail]
    longer = [kept(variance, "trailing", tail=(40, 10)) for variance in detail]
    even = [kept(variance, "uniform_lambda") for variance in detail]
    np.testing.assert_allclose(alone, [0.63, 0.38], atol=0.01)
    np.testing.assert_allclose(longer, [1.01, 0.91], atol=0.01)
    np.testing.assert_allclose(even, [1.00, 0.98], atol=0.01)


def test_a_tail_follows_below_the_last_level():
    schedule = make_schedule("cosine", zero_terminal_snr=True)
    few = timesteps("trailing", 10, schedule, (10, 40))
    assert few[-4:].tolist() == [199, 99, 40, 10]
    assert timesteps("trailing", 25, schedule, (40, 10))[-2:].tolist() == [39, 10]
    check_end(schedule, few)
    with pytest.raises(UserError, match="sigma 0.16.*synthesis.tail"):
        check_end(schedule, timesteps("trailing", 10, schedule))
    check_end(SCHEDULE, timesteps("uniform_stride", 128, SCHEDULE))


def test_published_step_quirk():
    t = timesteps("uniform_stride", 128, SCHEDULE)
    assert len(t) == 143
    assert t[0] == 995 and t[-1] == 1
    assert set(np.diff(t)) == {-7}


@pytest.mark.parametrize("kind", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 500, 1000])
def test_timesteps_fall_within_range(kind, steps):
    t = timesteps(kind, steps, SCHEDULE)
    assert t.dtype == np.int32
    assert np.all(np.diff(t) < 0) and t[-1] >= 0 and t[0] <= 999
    if kind != "uniform_stride":
        assert t[0] == 999
    if kind in ("trailing", "linspace"):
        assert len(t) == steps
    if kind in ("uniform_lambda", "linspace") and steps > 1:
        assert t[-1] == 0


def test_one_step_is_the_prediction():
    x_T = jnp.ones((2, 3))
    out = sample(
        lambda x, t: jnp.full(x.shape, 0.25),
        SCHEDULE,
        x_T,
        timesteps("trailing", 1, SCHEDULE),
        DDIM,
        "x0",
    )
    np.testing.assert_array_equal(out, np.full((2, 3), 0.25, np.float32))


def counted(guidance, steps=10):
    """Sampled image, and how often each branch of the network really ran."""
    calls = Counter()

    def denoise(x, t):
        jax.debug.callback(lambda: calls.update(["one"]))
        return exact(SCHEDULE, "eps", 0.7)(x, t)

    def both(x, t):
        jax.debug.callback(lambda: calls.update(["both"]))
        return exact(SCHEDULE, "eps", 0.7)(x, t), exact(SCHEDULE, "eps", 0.2)(x, t)

    x_T = jax.random.normal(jax.random.key(3), (2, 4))
    t = timesteps("trailing", steps, SCHEDULE)
    out = jax.jit(
        lambda x: sample(
            denoise, SCHEDULE, x, t, DPMPP_2M, "eps", guidance=guidance, denoise_both=both
        )
    )(x_T)
    jax.effects_barrier()
    return np.asarray(out), calls["one"], calls["both"]


def test_guidance_interval_saves_evaluations():
    plain, one, both = counted(UNGUIDED)
    assert (one, both) == (10, 0)
    assert counted(Guidance(1.0))[1:] == (10, 0)
    assert counted(Guidance(2.0))[1:] == (0, 10)
    inside, one, both = counted(Guidance(2.0, interval=(0.2, 0.7)))
    assert (one, both) == (5, 5)
    outside, one, both = counted(Guidance(2.0, interval=(0.02, 0.08)))
    assert both == 0
    np.testing.assert_array_equal(outside, plain)
    assert inside.mean() > plain.mean() + 0.05  # away from the unconditional mean


def test_network_is_traced_once():
    traced = []

    def denoise(x, t):
        traced.append(1)
        return exact(SCHEDULE, "eps")(x, t)

    sample(denoise, SCHEDULE, jnp.ones((1, 2)), timesteps("linspace", 50, SCHEDULE), DDIM, "eps")
    assert len(traced) <= 2  # jax may trace a scan body twice, never once a step


def test_more_steps_than_levels_are_refused():
    with pytest.raises(UserError, match="between 1 and 1000 steps"):
        timesteps("trailing", 2000, SCHEDULE)


def test_tables_are_those_of_the_equations():
    t = timesteps("trailing", 4, SCHEDULE)
    alpha, sigma = SCHEDULE.alpha_bar[t] ** 0.5, (1 - SCHEDULE.alpha_bar[t]) ** 0.5
    h = np.diff(np.log(alpha / sigma))
    a, b, c, d = Sampler("dpmpp_2m").plan(SCHEDULE, t).steps.T
    plain = Sampler("ddim").plan(SCHEDULE, t).steps.T
    np.testing.assert_allclose(a, np.append(sigma[1:], 0.0) / sigma)
    np.testing.assert_allclose(a[:-1] * alpha[:-1] + b[:-1] + c[:-1], alpha[1:])
    np.testing.assert_allclose(-c[1:-1] / (b + c)[1:-1], h[1:] / (2 * h[:-1]))
    np.testing.assert_allclose(plain, [a, b + c, 0 * c, d], atol=1e-15)
    noise = Sampler("ddim", 1.0).plan(SCHEDULE, t).steps[:-1, 3]
    expected = sigma[1:] / sigma[:-1] * np.sqrt(1 - alpha[:-1] ** 2 / alpha[1:] ** 2)
    np.testing.assert_allclose(noise, expected)


def test_the_published_128_steps_are_143_of_stride_7_from_level_995_to_1():
    t = timesteps("uniform_stride", 128, SCHEDULE)
    np.testing.assert_array_equal(t[::-1], np.arange(143) * 7 + 1)


def test_the_published_end_is_level_0_with_its_trace_of_noise():
    t = timesteps("uniform_stride", 128, SCHEDULE)
    plain, published = DDIM.plan(SCHEDULE, t).steps, PUBLISHED.plan(SCHEDULE, t).steps
    np.testing.assert_array_equal(plain[:-1], published[:-1])
    np.testing.assert_array_equal(plain[-1], [0, 1, 0, 0])
    sigma_0 = 0.0015**0.5
    a, b, c, d = published[-1]
    assert a == pytest.approx(sigma_0 / SCHEDULE.sigma[1]) and c == d == 0
    assert a * SCHEDULE.alpha[1] + b == pytest.approx((1 - sigma_0**2) ** 0.5)
    assert sigma_0 == pytest.approx(0.0387, abs=5e-5)


PUBLISHED = Sampler("ddim", to_level_0=True)


def published_code(eps, x, t, scale, rescale):
    """What the released code does, in its axes (b, c, h, w) and float64: `eps(x, t, style)`."""
    bars = SCHEDULE.alpha_bar[t]
    for level, bar, before in zip(t, bars, [*bars[1:], SCHEDULE.alpha_bar[0]], strict=True):
        given, none = eps(x, level, 1.0), eps(x, level, 0.0)
        guided = none + scale * (given - none)
        spread, wanted = (np.std(e, axis=(1, 2), keepdims=True, ddof=1) for e in (guided, given))
        noise = rescale * guided * wanted / spread + (1 - rescale) * given
        clean = (x - np.sqrt(1 - bar) * noise) / np.sqrt(bar)
        x = np.sqrt(before) * clean + np.sqrt(1 - before) * noise
    return x


def test_the_published_sampler():
    """Step by step as LDM's formulas have it, with a network that mixes everything a little."""
    rng = np.random.default_rng(0)
    mix, x_T = rng.normal(size=(3, 3)) / 3, rng.normal(size=(2, 3, 4, 6))

    def network(x, t, style, mix, sin):  # channels last
        wave = sin(3.0 * (x @ mix) + 0.01 * t + style) + style * (x @ mix) ** 2
        return 0.9 * x + 0.1 * wave

    def theirs_eps(x, t, style):
        return np.moveaxis(network(np.moveaxis(x, 1, -1), t, style, mix, np.sin), -1, 1)

    t = timesteps("uniform_stride", 128, SCHEDULE)
    theirs = published_code(theirs_eps, x_T, t, 1.5, 0.7)

    def denoise(x, t, style):
        level = t[:, None, None, None].astype(jnp.float32)
        return network(x, level, style, jnp.asarray(mix, jnp.float32), jnp.sin)

    def sampled(sampler, **fields):
        return sample(
            lambda x, t: denoise(x, t, 1.0),
            SCHEDULE,
            jnp.asarray(np.moveaxis(x_T, 1, -1), jnp.float32),
            t,
            sampler,
            "eps",
            guidance=Guidance(1.5, 0.7, **fields),
            denoise_both=lambda x, t: (denoise(x, t, 1.0), denoise(x, t, 0.0)),
        )

    def error(ours):
        return np.abs(np.moveaxis(np.asarray(ours), -1, 1) - theirs).max() / np.abs(theirs).max()

    code = {"std_axes": (1, 3), "blend_given": True}
    assert error(sampled(PUBLISHED, **code)) < 1e-4
    other_axes = {"std_axes": (2, 3), "blend_given": True}
    for departs in (sampled(DDIM, **code), sampled(PUBLISHED), sampled(PUBLISHED, **other_axes)):
        assert error(departs) > 1e-3
