"""A denoiser for canvases: images that are larger than the tiles that it has learned.

At each level t the network sees overlapping windows of the canvas x_t, each as large as the tiles
of its training and with its part of the layout, and its predictions are averaged (Bar-Tal et al.
2023, MultiDiffusion):

    prediction(x_t) = sum_k w_k f(window k of x_t) / sum_k w_k                              (1)

with the weights w of models/tiling.py. All of x_t takes the step together, so that neighbors agree
on what lies between them. At a level the clean image is linear in the prediction, pixel by pixel,
whichever of eps, v and x_0 that is: (1) averages clean images too, and any sampler and any guidance
follow. Rescaling of guidance sees the canvas as one image.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from stedm_jax.common.errors import UserError
from stedm_jax.models.blocks import Tokens
from stedm_jax.models.functional import Functional, Params
from stedm_jax.models.tiling import Tiles, map_tiles, tile_starts
from stedm_jax.tasks.diffusion import DiffusionTask


@dataclass(frozen=True)
class Windows:
    """Where the windows of canvases lie, in pixels.

    Attributes:
      side: of a window. overlap: of neighbors, at least. factor: of the first stage.
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
        if not 0 < overlap <= side // 2:
            raise UserError(
                f"Windows of {side} px cannot overlap by {share:g} of their side; give a share "
                f"from {factor / side:g} to 0.5."
            )
        return cls(side, overlap, factor)

    def seams(self, size: int) -> list[int]:
        """Where windows begin or end along an axis of a canvas of that size, inside of it."""
        latent = size // self.factor, self.side // self.factor, self.overlap // self.factor
        starts = tile_starts(*latent)
        ends = [start + latent[1] for start in starts[:-1]]
        return sorted({each * self.factor for each in (*starts[1:], *ends)})


@dataclass(frozen=True)
class InWindows:
    """Equation (1), in the place of the network.

    Attributes:
      network: f.
      side, overlap: of windows, in positions of the latents.
      at_once: windows that the network sees together.
    """

    network: Functional
    side: int
    overlap: int
    at_once: int

    def apply(
        self,
        params: Params,
        x: Float[Array, "b h w c"],
        t: Int32[Array, " b"],
        style: Float[Array, "b d"] | Tokens | None,
        **given: Any,
    ) -> Float[Array, "b h w d"]:
        """As the network's; float32."""

        def apply(pieces: Array) -> Array:
            count = pieces.shape[0] // x.shape[0]
            levels, styles = jax.tree.map(lambda each: jnp.concatenate([each] * count), (t, style))
            return self.network.apply(params, pieces, levels, styles, **given)

        return map_tiles(apply, x, self.side, self.overlap, at_once=self.at_once)


def over_windows(task: DiffusionTask, windows: Windows, at_once: int) -> DiffusionTask:
    """The same task for canvases, with the same parameters.

    Args:
      windows: as large as the tiles that the task has learned.
      at_once: how many the denoiser sees together. The first stage decodes one at a time.
    """
    factor, large = task.factor, copy(task)
    side, overlap = windows.side // factor, windows.overlap // factor
    network: Any = InWindows(task.unet, side, overlap, at_once)
    large.unet, large.autoencoder = network, copy(task.autoencoder)
    large.autoencoder.tiles = Tiles(windows.side, windows.overlap, 0, factor)
    return large
