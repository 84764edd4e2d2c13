"""Canvases: images much larger than the tiles that a generator has learned, with one large layout
and one style, and a number for their seams."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8

from stedm_jax.synthesize.trained_generator import Generator
from stedm_jax.tasks.windows import Windows, over_windows


def for_canvases(
    generator: Generator, overlap: float = 0.75, at_once: int = 16
) -> tuple[Generator, Windows]:
    """The generator for layouts of any size: its `images` takes canvases.

    What lies on the device are the canvas itself and `at_once` windows, each as large as the tiles
    of the generator's training. On several devices each makes canvases of its own.

    Args:
      overlap: of neighboring windows, as a share of their side, above 0 and at most 3/4. Half
        costs a fourth, and may show where windows are.
      at_once: windows that the denoiser sees together.

    Raises:
      UserError: an overlap that cannot be.
    """
    task = generator.below.task
    windows = Windows.sharing(overlap, generator.context.settings.data.tile, task.factor)
    task = over_windows(task, windows, at_once)
    noted = {"canvas_window": str(windows.side), "canvas_overlap": str(windows.overlap)}
    large = replace(
        generator,
        below=replace(generator.below, task=task),
        section=replace(generator.section, batch=1),
        provenance={**generator.provenance, **noted},
    )
    return large, windows


def seam_ratio(
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"], windows: Windows, level: int
) -> float:
    """Mean absolute difference of neighboring pixels across the lines at which the windows of a
    noise level begin or end, over that across other lines; 1 where nothing of them is to be seen.

    Only lines between latents are compared, at multiples of the first stage's factor: its decoder
    may draw those otherwise than lines within a latent, canvas or not. NaN without seams.
    """
    across: list[float] = []
    elsewhere: list[float] = []
    for axis in (0, 1):
        steps = np.abs(np.diff(image.astype(np.float32), axis=axis))
        lines = steps.mean(axis=tuple(other for other in range(3) if other != axis))
        seams = set(windows.seams(image.shape[axis], level))
        for place in range(windows.factor, image.shape[axis], windows.factor):
            (across if place in seams else elsewhere).append(float(lines[place - 1]))
    return _mean(across) / _mean(elsewhere)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
