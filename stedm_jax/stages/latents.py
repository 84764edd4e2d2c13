"""Stage latents: their scale, as published or measured so that each channel has mean 0 and variance
1; and, where `latents.cache` says so, what the autoencoder gives for every view of every tile that
the denoiser learns from.

What is stored are the moments that latents are drawn from, never a draw: training draws with the
  key of its step.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ABOUT, ArraySpec, ArrayStore, StoreSpec, differences
from stedm_jax.data.augment import Views
from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.stages import autoencoder
from stedm_jax.stages.encode import Encoding, encode_tiles, stored_views
from stedm_jax.stages.run import Run
from stedm_jax.tasks.autoencoder import AutoencoderTask, latent_moments
from stedm_jax.tasks.diffusion import LatentScale
from stedm_jax.tasks.images import to_network
from stedm_jax.training import peers
from stedm_jax.training.sharding import replicated, to_global

FOLDER = "cache"
"""Folder of the stored moments, in that of the stage; it can be deleted when stage diffusion is
done."""
_NOT_REMADE = (
    "autoencoder",
    "tiles",
)  # of what the cache is about; tiles.val is the number of those of a split


def scale(run: Run) -> LatentScale:
    """The measured scale, for later stages."""
    result = run.workdir.result("latents")
    if result is None:
        raise UserError(
            f"The scale of the latents is not known in {run.workdir.path}; run the stage latents."
        )
    return LatentScale(tuple(result["shift"]), tuple(result["scale"]))


def run(run: Run) -> None:
    """Stores shift and scale of each channel, and the moments."""
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
        if run.config.latents.cache:
            spec = encode_tiles(run, _encoding(run)).spec
            result["cache"] = {"views": spec.records, "bytes": spec.size}
    print(f"latents: shift {np.round(mean, 3)}, scale {np.round(std, 3)}", flush=True)


def stored(run: Run) -> ArrayStore | None:
    """The moments that training reads; None without a cache. What is missing of them, or was made
    otherwise, is made.

    Raises:
      UserError: they are of other tiles or of another autoencoder.
    """
    if not run.config.latents.cache:
        return None
    encoding = _encoding(run)
    peers.on_first(lambda: _check(run, encoding))
    return encode_tiles(run, encoding)


def _check(run: Run, encoding: Encoding) -> None:
    """Refuses what training would not notice: that scale and moments are not of the weights or
    tiles that are there."""
    other = differences(encoding.folder, encoding.spec)
    if any(line.split(":")[0] in _NOT_REMADE for line in other):
        raise UserError(
            f"The latents in {encoding.folder} were encoded from other tiles or with another autoencoder "
            f"({'; '.join(other)}). Put the former back; or delete {run.workdir.path / 'latents'} and the folders of "
            "the stages after it, which are then made anew."
        )


def views(config: Any) -> Views:
    """The augmentations that are stored of each training tile."""
    return stored_views(config, config.diffusion.stain_jitter)


def plan(
    config: Any, task: AutoencoderTask, records: Mapping[str, int], about: Mapping[str, Any]
) -> StoreSpec:
    """What the cache holds.

    Args:
      config: of the experiment.
      task: the autoencoder.
      records: split -> its records in the tile set; splits that it lacks are left out.
      about: which tiles and which autoencoder.
    """
    side, which = config.data.tile, views(config)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shape = jax.eval_shape(task.moments, task.network.abstract, image).shape[1:]
    count = {split: which.count for split, weight in config.diffusion.splits.items() if weight}
    if config.diffusion.train.eval_every:
        count["val"] = 1
    about = dict(about) | {
        "seed": config.seed,
        "latents.copies": which.copies,
        "latents.variants": which.variants,
        "diffusion.stain_jitter": which.jitter,
        "data.shift": config.data.shift,
        "data.rotate": config.data.rotate,
    }
    known = {split: records[split] for split in count if split in records}
    return StoreSpec(
        {"moments": ArraySpec(tuple(shape), config.latents.dtype)}, known, count, about
    )


def _encoding(run: Run) -> Encoding:
    config = run.config
    task, params, origin = autoencoder.trained(run)
    about = {"autoencoder": origin.sha256, "tiles": run.tiles.fingerprint}
    records = {split: len(run.tiles.index(split)) for split in run.tiles.splits}
    spec, drawn = plan(config, task, records, about), views(config)
    trained = config.diffusion.train.steps * config.diffusion.train.batch
    folder = run.workdir.stage("latents") / FOLDER
    if spec.records > trained and not (folder / ABOUT).exists():
        print(
            f"latents: the cache encodes {spec.records:,} views, and training without it {trained:,} images: steps get "
            "faster, and the whole does not",
            flush=True,
        )
    return Encoding(
        folder,
        spec,
        {split: drawn if split != "val" else None for split in spec.tiles},
        lambda params, image: {"moments": task.moments(params, to_network(image))},
        params,
        max(1, config.diffusion.train.batch // run.mesh.size),
        "latents",
        "lower latents.copies, set latents.variants=1, or latents.cache=False",
    )


def _measure(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over tiles of the autoencoder's splits."""
    task, params, _ = autoencoder.trained(run)
    batch = run.config.autoencoder.train.batch
    dataset = tile_dataset(
        run.sources(dict(run.config.autoencoder.splits)), seed=run.config.seed, augment=False
    )
    batches = run.train_batches(dataset, batch)(0)
    moments = jax.jit(
        lambda params, image: latent_moments(task, params, to_network(image)),
        out_shardings=replicated(run.mesh),
    )
    sums = [np.zeros(()), np.zeros(()), np.zeros(())]
    for _ in range(max(1, run.config.latents.tiles // batch)):
        image = to_global({"image": next(batches)["image"]}, run.mesh)["image"]
        parts = [np.asarray(part, np.float64) for part in moments(params, image)]
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    mean = sums[0] / sums[2]
    return mean, np.sqrt(np.maximum(sums[1] / sums[2] - mean**2, 0.0))
