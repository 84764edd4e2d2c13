"""A denoiser for canvases: images that are larger than the tiles that it has learned.

At each level t the network sees overlapping windows of the canvas x_t, each as large as the tiles
of its training and with its part of the layout, and its predictions are averaged (Bar-Tal et al.
2023, MultiDiffusion):

    prediction(x_t) = sum_k w_k f(window k of x_t) / sum_k w_k                              (1)

    w(i) = sin^2(pi / 2 min((i + 1/2) / slope, 1)) from its start, mirrored at its end      (2)

where slope is the overlap, and at most half of a side. All of x_t takes the step together, so that
neighbors agree on what lies between them. At a level the clean image is linear in the prediction,
pixel by pixel, whichever of eps, v and x_0 that is: (1) averages clean images too, and any sampler
and any guidance follow. Rescaling of guidance sees the canvas as one image.

An average has less detail than one prediction, where windows differ in detail. Its variance goes
with sum_k w_k^2 / (sum_k w_k)^2, which is the same everywhere for an overlap of 3/4, and between
1/2 and 1 along an axis for an overlap of 1/2, at a fourth of the cost. Windows also lie elsewhere
at each level, so that what is left of a pattern does not add up.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Integer

from stedm_jax.common.errors import UserError
from stedm_jax.models.blocks import Tokens
from stedm_jax.models.functional import Functional, Params
from stedm_jax.models.tiling import Axis, Tiles, blend_tiles
from stedm_jax.tasks.diffusion import DiffusionTask

SHIFTS = 8
"""How many places the windows of a canvas may lie at."""


@dataclass(frozen=True)
class Windows:
    """Where the windows of canvases lie, in pixels.

    Attributes:
      side: of a window. overlap: of neighbors. factor: of the first stage.
    """

    side: int
    overlap: int
    factor: int

    @classmethod
    def sharing(cls, share: float, side: int, factor: int) -> "Windows":
        """Windows of which neighbors share a part of their side.

        Raises:
          UserError: a share that cannot be.
        """
        overlap = int(share * side) // factor * factor
        if not 0 < overlap <= side * 3 // 4:
            raise UserError(
                f"Windows of {side} px cannot overlap by {share:g} of their side; give a share "
                f"from {factor / side:g} to 0.75."
            )
        return cls(side, overlap, factor)

    def check_canvas(self, side: int) -> None:
        """Raises UserError where a canvas cannot have that side, in pixels."""
        if side < self.side or side % self.factor:
            raise UserError(
                f"A canvas of {side} px is smaller than a tile, or no multiple of {self.factor}; "
                f"give a multiple of {self.factor} from {self.side} on."
            )

    def grid(self, level: Integer[Array, " "] | int) -> Integer[Array, " "]:
        """By which of SHIFTS windows lie farther to the start at a noise level (Knuth's
        multiplicative hash of it, so that the levels of no sampler fall together)."""
        return jnp.asarray(level).astype(jnp.uint32) * jnp.uint32(2654435769) >> jnp.uint32(29)

    def starts(self, size: int) -> Int32[np.ndarray, "shifts n"]:
        """Where windows start along an axis of a canvas of that size, in latents, for each shift; a
        window that would begin outside lies at the edge."""
        size, side = size // self.factor, self.side // self.factor
        stride = side - self.overlap // self.factor
        last = max(size - side, 0)
        count = -(-last // stride) + 2 if last else 1
        shifts = np.arange(SHIFTS) * stride // SHIFTS
        starts = np.arange(count)[None, :] * stride - shifts[:, None]
        return np.clip(starts, 0, last).astype(np.int32)

    def axis(self, size: int, grid: Integer[Array, " "]) -> Axis:
        """Windows and their weights along an axis: equation (2), but for windows at an edge, which
        count fully there."""
        starts, side = self.starts(size), min(self.side, size) // self.factor
        slope = min(self.overlap, self.side // 2) // self.factor
        rise = np.sin(np.pi / 2 * np.clip((np.arange(side) + 0.5) / slope, 0.0, 1.0)) ** 2
        half = np.arange(side) < side / 2
        first, last = starts[..., None] == 0, starts[..., None] == starts.max()
        weights = np.minimum(
            np.where(first & half, 1.0, rise), np.where(last & ~half, 1.0, rise[::-1])
        )
        return jnp.asarray(starts)[grid], jnp.asarray(weights.astype(np.float32))[grid]

    def seams(self, size: int, level: int) -> list[int]:
        """Where windows begin or end along an axis of a canvas of that size, inside of it, in
        pixels, at a noise level."""
        starts = self.starts(size)[int(self.grid(level))] * self.factor
        places = {int(each) for start in starts for each in (start, start + self.side)}
        return sorted(places - {0, size})


@dataclass(frozen=True)
class InWindows:
    """Equation (1), in the place of the network.

    Attributes:
      network: f.
      windows: where they lie.
      at_once: windows that the network sees together.
    """

    network: Functional
    windows: Windows
    at_once: int

    def apply(
        self,
        params: Params,
        x: Float[Array, "b h w c"],
        t: Int32[Array, " b"],
        style: Float[Array, "b s"] | Tokens | None,
        **given: Any,
    ) -> Float[Array, "b h w d"]:
        """As the network's; float32."""

        def apply(pieces: Array) -> Array:
            count = pieces.shape[0] // x.shape[0]
            levels, styles = jax.tree.map(lambda each: jnp.concatenate([each] * count), (t, style))
            return self.network.apply(params, pieces, levels, styles, **given)

        factor, grid = self.windows.factor, self.windows.grid(t[0])
        height, width = (size * factor for size in x.shape[1:3])
        rows, columns = (self.windows.axis(size, grid) for size in (height, width))
        high, wide = rows[1].shape[1], columns[1].shape[1]
        return blend_tiles(apply, x, high, wide, rows, columns, at_once=self.at_once)


def over_windows(task: DiffusionTask, windows: Windows, at_once: int) -> DiffusionTask:
    """The same task for canvases, with the same parameters.

    Args:
      windows: as large as the tiles that the task has learned.
      at_once: how many the denoiser sees together. The first stage decodes one at a time.
    """
    factor, large = task.factor, copy(task)
    network: Any = InWindows(task.unet, windows, at_once)
    large.unet, large.autoencoder = network, copy(task.autoencoder)
    large.autoencoder.tiles = Tiles(
        windows.side, min(windows.overlap, windows.side // 2), 0, factor
    )
    if task.weaker is not None:
        large.weaker = over_windows(task.weaker, windows, at_once)
    return large
