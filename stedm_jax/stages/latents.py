"""Stage latents: their scale, as published or measured so that each channel has mean 0 and variance 1."""

import jax
import numpy as np

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.errors import UserError
from stedm_jax.stages import autoencoder
from stedm_jax.stages.run import Run
from stedm_jax.tasks.autoencoder import latent_moments
from stedm_jax.tasks.diffusion import LatentScale
from stedm_jax.tasks.images import to_network
from stedm_jax.training.sharding import replicated, to_global


def scale(run: Run) -> LatentScale:
    """The measured scale, for later stages."""
    result = run.workdir.result("latents")
    if result is None:
        raise UserError(f"The scale of the latents is not known in {run.workdir.path}; run the stage latents.")
    return LatentScale(tuple(result["shift"]), tuple(result["scale"]))


def run(run: Run) -> None:
    """Stores shift and scale of each channel."""
    run.need("autoencoder")
    with run.workdir.timed("latents") as result:
        channels, fixed = run.config.autoencoder.model.latent_channels, run.config.latents.scale
        mean, std = (np.zeros(channels), np.full(channels, 1.0 / fixed)) if fixed else _measure(run)
        if not np.all(np.isfinite(std) & (std > 1e-6)):
            raise UserError(
                f"The latents do not vary in every channel (standard deviations {np.round(std, 6)}); the autoencoder "
                "has not learnt. Train it longer, or lower autoencoder.kl_weight."
            )
        result["shift"] = [float(value) for value in mean]
        result["scale"] = [float(value) for value in std]
    print(f"latents: shift {np.round(mean, 3)}, scale {np.round(std, 3)}", flush=True)


def _measure(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over tiles of the autoencoder's splits."""
    task, params, _ = autoencoder.trained(run)
    batch = run.config.autoencoder.train.batch
    dataset = tile_dataset(run.sources(dict(run.config.autoencoder.splits)), seed=run.config.seed, augment=False)
    batches = run.train_batches(dataset, batch)(0)
    moments = jax.jit(
        lambda params, image: latent_moments(task, params, to_network(image)), out_shardings=replicated(run.mesh)
    )
    sums = [np.zeros(()), np.zeros(()), np.zeros(())]
    for _ in range(max(1, run.config.latents.tiles // batch)):
        image = to_global({"image": next(batches)["image"]}, run.mesh)["image"]
        parts = [np.asarray(part, np.float64) for part in moments(params, image)]
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    mean = sums[0] / sums[2]
    return mean, np.sqrt(np.maximum(sums[1] / sums[2] - mean**2, 0.0))
