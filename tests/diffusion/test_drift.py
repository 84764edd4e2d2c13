"""Why samples drift towards the stain of annotated patients, on colors whose denoiser is known.

A color m is N(1, T^2) in annotated patients and N(-1, T^2) in others, and a style tells it up to
noise, s = m + N(0, R^2). Only annotated patients have layouts, so a layout says nothing but "m is
annotated" here. The posterior is a mixture of two Gaussians whatever is known, so the best possible
denoiser is exact. Drift is the mean of (color made - s) / 2 over styles of the others: 1 is all the
way to the annotated stain.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.diffusion.samplers import Sampler, timesteps
from stedm_jax.diffusion.schedule import make_schedule

T, R = 0.5, 0.35
CENTERS = np.array([1.0, -1.0])
SCHEDULE = make_schedule("cosine", zero_terminal_snr=True)
RNG = np.random.default_rng(0)
STYLES = -1.0 + np.hypot(T, R) * RNG.standard_normal(2000)
NOISE = RNG.standard_normal(2000)


def normal(x, variance):
    return np.exp(-0.5 * x**2 / variance) / variance**0.5


def denoise(x, level, annotated, style):
    """E[m | x_t, s], where a share of the tiles that it learned from is annotated; style None: it
    is not known."""
    alpha, sigma = SCHEDULE.alpha_bar[level] ** 0.5, (1 - SCHEDULE.alpha_bar[level]) ** 0.5
    weight, mean, variance = np.array([annotated, 1 - annotated])[:, None], CENTERS[:, None], T**2
    if style is not None:
        weight = weight * normal(style - mean, T**2 + R**2)
        mean = mean + T**2 / (T**2 + R**2) * (style - mean)
        variance = T**2 * R**2 / (T**2 + R**2)
    total = alpha**2 * variance + sigma**2
    weight = weight * normal(x - alpha * mean, total)
    each = mean + alpha * variance / total * (x - alpha * mean)
    return (weight * each).sum(0) / weight.sum(0)


def drift(guidance, layouts=0.0, bare=0.1):
    """Of samples whose denoiser learned from tiles half of which are annotated.

    Args:
      guidance: of prediction x0; `color` 0 takes all, as there is nothing else.
      layouts: share of the others that have a layout of the judge.
      bare: share of dropped layouts (diffusion.drop_layout).
    """
    present = (1 - bare) / ((1 - bare) + (1 - bare) * layouts)
    absent = bare / (bare + 1 - layouts * (1 - bare))
    x, t = NOISE, timesteps("trailing", 40, SCHEDULE, (10,))
    for level, (a, b, _, _) in zip(t, Sampler("ddim").plan(SCHEDULE, t).steps, strict=True):
        cond = denoise(x, level, present, STYLES)
        styled = denoise(x, level, absent, STYLES) if guidance.on == "separate" else None
        uncond = denoise(x, level, present if guidance.on == "style" else absent, None)
        branches = [cond, uncond] if styled is None else [cond, uncond, styled]
        branches = [jnp.asarray(each, jnp.float32)[:, None, None, None] for each in branches]
        layout = None if styled is None else jnp.ones(len(x), bool)
        x = a * x + b * np.asarray(guidance.combine(*branches, layout=layout))[:, 0, 0, 0]
    return float((x - STYLES).mean() / 2)


PLAIN = Guidance(1.0)
STYLE, BOTH = Guidance(2.0), Guidance(2.0, on="both")
SEPARATE = Guidance(2.0, on="separate", layout_scale=2.0)


def test_a_layout_means_an_annotated_stain_even_without_guidance():
    assert drift(PLAIN) == pytest.approx(0.33, abs=0.02)


def test_guidance_of_the_layout_drifts_further_and_that_of_the_style_back():
    assert drift(BOTH) > 0.33 and drift(BOTH, bare=0.5) > 0.33
    assert drift(Guidance(1.0, on="separate", layout_scale=2.0)) > 0.5
    assert abs(drift(STYLE)) < 0.05


def test_a_color_without_layout_does_not_drift():
    assert abs(drift(replace(SEPARATE, color=0.0))) < 0.03
    assert abs(drift(Guidance(1.0, on="separate", color=0.0))) < 0.03


@pytest.mark.parametrize("guidance", [PLAIN, STYLE, BOTH, SEPARATE])
def test_layouts_of_the_judge_end_the_drift_whatever_the_guidance(guidance):
    assert abs(drift(guidance, layouts=0.5)) < 0.06
