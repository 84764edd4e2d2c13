"""The compiled programs of a run as the stages make them, from shapes alone: nothing is loaded and
nothing computed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

from stedm_jax.data.classes import ClassMap
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import is_remote, read_manifest
from stedm_jax.stages import autoencoder, latents, synthesis
from stedm_jax.stages.run import Run, check_classes
from stedm_jax.tasks.autoencoder import own
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import AXES, batch_sharding, check_batch, replicated
from stedm_jax.training.state import with_shardings
from stedm_jax.workdir import Workdir

PARTS = ("train", "sampler")


@dataclass(frozen=True)
class Prepared:
    """A program that can be compiled.

    Attributes:
      name: of PARTS.
      trace: gives the traced program (jax.stages.Traced).
      held: what lies on every chip while it runs: name -> bytes of a chip.
      images: that one run of it makes or learns from, over all chips.
    """

    name: str
    trace: Callable[[], Any]
    held: dict[str, int]
    images: int


def chip_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree of arrays or ShapeDtypeStructs with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding is not None else leaf.shape
        size = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
        for length in shape:
            size *= length
        total += size
    return total


def prepare(config: Any, workdir: Workdir, mesh: Mesh, part: str) -> Prepared:
    """The train step of stage diffusion, or the sampler of stage synthesis.

    Args:
      config: of the experiment; its batch sizes are global.
      workdir: where {workdir} of the configuration points; it need not be there.
      mesh: of real devices or of those of a topology.
      part: of PARTS.

    Raises:
      UserError: settings that do not go together, a batch that does not divide, classes that are
        not known yet.
    """
    run = Run(config, workdir, mesh)
    task, frozen = _task(run)
    return (_train if part == "train" else _sampler)(run, task, frozen)


def abstract_params(config: Any) -> Iterator[tuple[str, Any]]:
    """(stage, abstract parameters) of the autoencoder and of the denoiser with its style encoder,
    where they train."""
    mesh = jax.make_mesh((1, 1), AXES, axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])
    run = Run(config, Workdir(Path()), mesh)
    for stage in ("autoencoder", "diffusion"):
        if stage in config.stages and config[stage].train.steps:
            first = autoencoder.build(run)
            colors = ((0, 0, 0), (255, 255, 255))
            unit = LatentScale((0.0,), (1.0,))
            task = (
                first
                if stage == "autoencoder"
                else DiffusionTask(config.diffusion, first, unit, colors, run.dtype)
            )
            yield stage, jax.eval_shape(task.init, jax.random.key(0))


def _classes(run: Run) -> ClassMap:
    """The classes that would be learnt; of a remote tile set only the manifest is read."""
    place = run.workdir.fill(run.config.data.tiles)
    if is_remote(place):
        return check_classes(TileSet(Path(place), read_manifest(place), {}), run.config)
    there = place and (Path(place) / "manifest.json").exists()
    return check_classes(TileSet.open(place) if there else None, run.config)


def _task(run: Run) -> tuple[DiffusionTask, Any]:
    """The task of stage diffusion, and its frozen parameters, abstract."""
    first = autoencoder.build(run)
    channels = run.config.autoencoder.model.latent_channels
    unit = LatentScale((0.0,) * channels, (1.0,) * channels)
    task = DiffusionTask(run.config.diffusion, first, unit, _classes(run).colors, run.dtype)
    frozen = {"first": own(jax.eval_shape(first.init, jax.random.key(0)))}
    if task.guide is not None:
        frozen["guide"] = task.guide.abstract
    return task, with_shardings(frozen, run.mesh)


def _tiles(run: Run, batch: int, **shapes: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    cut = batch_sharding(run.mesh)
    return {
        name: jax.ShapeDtypeStruct((batch, *shape), jnp.uint8, sharding=cut)
        for name, shape in shapes.items()
    }


def _train(run: Run, task: DiffusionTask, frozen: Any) -> Prepared:
    config, side = run.config.diffusion, run.config.data.tile
    program = Program(task, config.train, run.mesh)
    styles = (config.style.tiles, side, side, 3)
    batch = _tiles(run, config.train.batch, image=(side, side, 3), mask=(side, side), styles=styles)
    if run.config.latents.cache:
        spec, cut = (
            latents.plan(run.config, task.autoencoder, {}, {}).arrays["moments"],
            batch.pop("image").sharding,
        )
        batch["moments"] = jax.ShapeDtypeStruct(
            (config.train.batch, *spec.shape), jnp.dtype(spec.dtype), sharding=cut
        )
    abstract_key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct((), abstract_key.dtype, sharding=replicated(run.mesh))
    state = program.state
    held = {
        "parameters": chip_bytes(state.all_params),
        "optimiser": chip_bytes(state.opt_state),
        "moving averages": chip_bytes((state.ema, state.tracks)),
        "frozen": chip_bytes(frozen),
        "batch": chip_bytes(batch),
    }
    return Prepared("train", lambda: program.trace(frozen, batch, key), held, config.train.batch)


def _sampler(run: Run, task: DiffusionTask, frozen: Any) -> Prepared:
    config, side = run.config.synthesis, run.config.data.tile
    check_batch(config.batch, run.mesh)
    styles = (run.config.diffusion.style.tiles, side, side, 3)
    batch = _tiles(run, config.batch, mask=(side, side), styles=styles)
    batch["index"] = jax.ShapeDtypeStruct(
        (config.batch,), jnp.uint32, sharding=batch_sharding(run.mesh)
    )
    params = with_shardings(jax.eval_shape(task.init, jax.random.key(0)), run.mesh)
    held = {
        "parameters": chip_bytes(params),
        "frozen": chip_bytes(frozen),
        "batch": chip_bytes(batch),
    }
    sampler = synthesis.make_sampler(run, task)
    return Prepared("sampler", lambda: sampler.trace(params, frozen, batch), held, config.batch)
