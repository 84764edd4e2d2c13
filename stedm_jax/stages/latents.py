"""Stage latents: their scale, and a cache of them.

The scale is as published, or measured so that each channel has mean 0 and variance 1, or at most
variance 1 where one factor serves all. With `latents.cache`, what the autoencoder gives for every
view of every tile that a generator learns from is stored.
"""

import jax
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.experiment import latent_cache
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.tasks.autoencoder import latent_moments
from stedm_jax.tasks.images import to_network
from stedm_jax.training.sharding import replicated, to_global


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Stores shift and scale of each channel, and the moments.

    Raises:
      UserError: the latents do not vary, or as `encode_views.encode_tiles`.
    """
    section, task = context.settings.latents, learned.autoencoder[0]
    with context.workdir.timed(cell.name) as result:
        if section.scale:
            mean, std = np.zeros(task.channels), np.full(task.channels, 1.0 / section.scale)
        else:
            mean, std = _measure(context, learned)
            if not section.each:
                std = np.full_like(std, std.max())
        if not np.all(np.isfinite(std) & (std > 1e-6)):
            raise UserError(
                "The latents do not vary in every channel (standard deviations"
                f" {np.round(std, 6)}); the autoencoder has not learned. Train it longer, or lower"
                " autoencoder.kl_weight."
            )
        result["shift"] = [float(value) for value in mean]
        result["scale"] = [float(value) for value in std]
        if section.cache:
            spec = latent_cache.make(context, learned).spec
            result["cache"] = {"views": spec.records, "bytes": spec.size}
    print(f"latents: shift {np.round(mean, 3)}, scale {np.round(std, 3)}", flush=True)


def _measure(context: Context, learned: Learned) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over tiles of the autoencoder's splits."""
    task, params, _ = learned.autoencoder
    settings = context.settings
    batch = settings.autoencoder.train.batch
    sources = context.sources(settings.autoencoder.splits)
    dataset = tile_dataset(sources, seed=settings.seed, augment=False)
    batches = context.train_batches(dataset, batch)(0)
    moments = jax.jit(
        lambda params, image: latent_moments(task, params, to_network(image)),
        out_shardings=replicated(context.mesh),
    )
    sums = [np.zeros(()), np.zeros(()), np.zeros(())]
    for _ in range(max(1, settings.latents.tiles // batch)):
        image = to_global({"image": next(batches)["image"]}, context.mesh)["image"]
        parts = [np.asarray(part, np.float64) for part in moments(params, image)]
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    mean = sums[0] / sums[2]
    return mean, np.sqrt(np.maximum(sums[1] / sums[2] - mean**2, 0.0))
