"""Stage latents: measures mean and spread of the latents, so that the diffusion sees mean 0 and variance 1."""

import jax
import numpy as np

from stedm_jax.data.pipeline import tile_dataset, training_batches
from stedm_jax.errors import UserError
from stedm_jax.stages import autoencoder
from stedm_jax.stages.run import Run
from stedm_jax.tasks.autoencoder import latent_moments
from stedm_jax.tasks.diffusion import LatentScale
from stedm_jax.tasks.images import to_network
from stedm_jax.training.sharding import to_global


def scale(run: Run) -> LatentScale:
    """The measured scale, for later stages."""
    result = run.workdir.result("latents")
    if result is None:
        raise UserError(f"The scale of the latents is not known in {run.workdir.path}; run the stage latents.")
    return LatentScale(tuple(result["shift"]), result["scale"])


def run(run: Run) -> None:
    """Encodes tiles of the splits that the autoencoder was trained on, and stores shift and scale."""
    run.need("autoencoder")
    with run.workdir.timed("latents") as result:
        task, params = autoencoder.trained(run)
        batch = run.config.autoencoder.train.batch
        dataset = tile_dataset(run.sources(run.config.autoencoder.splits), seed=run.config.seed, augment=False)
        batches = training_batches(
            dataset, batch=batch, start=0, host=jax.process_index(), hosts=jax.process_count(),
            threads=run.config.data.threads,
        )  # fmt: skip
        moments = jax.jit(lambda params, image: latent_moments(task, params, to_network(image)))
        total, squares, count = np.zeros(()), np.zeros(()), 0.0
        for _ in range(max(1, run.config.latents.tiles // batch)):
            image = to_global({"image": next(batches)["image"]}, run.mesh)["image"]
            parts = [np.asarray(part, np.float64) for part in moments(params, image)]
            total, squares, count = total + parts[0], squares + parts[1], count + parts[2]
        mean = total / count
        variance = np.maximum(squares / count - mean**2, 0.0)
        result["shift"] = [float(value) for value in mean]
        result["scale"] = float(np.sqrt(variance.mean()))
        result["std"] = [float(value) for value in np.sqrt(variance)]
        if not np.isfinite(result["scale"]) or result["scale"] == 0.0:
            raise UserError("The latents do not vary; the autoencoder has not learnt. Train it longer.")
    print(f"latents: scale {result['scale']:.4g}, std by channel {np.round(result['std'], 3)}", flush=True)
