"""Canvases: where their windows lie, and whether these are seen."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stedm_jax.common.errors import UserError
from stedm_jax.synthesize.canvas import seam_ratio
from stedm_jax.tasks.windows import Windows


def texture(size, seed=0):
    noise = np.random.default_rng(seed).normal(size=(size, size, 3))
    smooth = gaussian_filter(noise, (2, 2, 0))
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255)


def test_seams_are_measured():
    """1 without them, and more where windows differ in color by a step."""
    windows = Windows(64, 8, 4)
    image = texture(1024)
    assert abs(seam_ratio(image, windows, 0) - 1) < 0.02
    seams = windows.seams(1024, 0)
    step = np.zeros(1024)
    for number, place in enumerate(seams):
        step[place:] = 20.0 * (number % 2)
    seen = image + step[:, None, None] + step[None, :, None]
    assert seam_ratio(seen, windows, 0) > 1.05
    blurred = image.copy()
    for place in seams:
        blurred[place - 1 : place + 1] = blurred[place - 1 : place + 1].mean(0)
    assert seam_ratio(blurred, windows, 0) < 0.9
    assert np.isnan(seam_ratio(texture(64), windows, 0))


@pytest.mark.parametrize("overlap", [0.0, 0.03, 0.9, -1.0])
def test_an_overlap_that_cannot_be_is_refused(overlap):
    with pytest.raises(UserError, match="0.0625 to 0.75"):
        Windows.sharing(overlap, 64, 4)


def test_overlaps_are_whole_latents():
    assert Windows.sharing(0.5, 64, 4) == Windows(64, 32, 4)
    assert Windows.sharing(0.3, 64, 4) == Windows(64, 16, 4)


@pytest.mark.parametrize("side", [-4, 32, 130])
def test_a_canvas_that_cannot_be_is_refused(side):
    Windows(64, 48, 4).check_canvas(128)
    with pytest.raises(UserError, match="a multiple of 4 from 64 on"):
        Windows(64, 48, 4).check_canvas(side)
