"""A trained segmenter of a workdir, ready to be used on images; the tiles it learnt from need not
be there."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from stedm_jax.common.errors import UserError
from stedm_jax.data.stain import Normaliser, read_target, stain_of
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.flat import to_dict
from stedm_jax.settings.load import from_flat
from stedm_jax.stages.arms import Shown, arm_task, check_images, settings
from stedm_jax.stages.learn import restore
from stedm_jax.stages.run import Run
from stedm_jax.stages.seen import noted
from stedm_jax.stages.segmentation import ABOUT, about
from stedm_jax.stages.start import divide_cpu
from stedm_jax.tasks.segmentation import SegmentationTask
from stedm_jax.training.cache import enable_compile_cache
from stedm_jax.training.sharding import batch_sharding, make_mesh
from stedm_jax.workdir import Workdir


@dataclass(frozen=True)
class Segmenter:
    """A trained segmenter.

    Attributes:
      task: how its maps are made a mask and objects.
      predict: RGB patches (batch, t, t, 3), uint8, to the maps that are fused (task.maps); compiled
        once a shape. Where the tiles were brought to one stain, each patch is too, by itself as
        they were.
      config: of the run.
      names, colors, foreground: of the classes.
      mpp, tile: um per pixel, and side in pixels, of the tiles it learnt from.
      devices: what a batch is divided by.
      learnt: stage -> patients that it learnt from, as far as is known.
    """

    task: SegmentationTask
    predict: Callable[[UInt8[np.ndarray, "b t t 3"]], jax.Array]
    config: Any
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    foreground: tuple[int, ...]
    mpp: float
    tile: int
    devices: int
    learnt: Mapping[str, Sequence[str]] = field(default_factory=dict)


def saved_config(folder: Path) -> Any:
    """The configuration of a run from its workdir; keys that it lacks have the default.

    Raises:
      UserError: the folder is no workdir.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            f"{folder} is no workdir of a run: it has no config.json. Give the --workdir of a training."
        )
    return ConfigDict(to_dict(from_flat(json.loads(file.read_text()), str(file))))


def trained(folder: Path) -> list[tuple[str, int]]:
    """Arms of a workdir that were trained to the end, each with its seed."""
    found = []
    for file in sorted(folder.glob("segmentation/*/scores.json")):
        one = json.loads(file.read_text())
        found.append((str(one["arm"]), int(one["seed"])))
    return found


def load_segmenter(folder: Path, arm: str, seed: int | None = None) -> Segmenter:
    """Loads what an arm of a workdir learnt, on all devices of this process.

    Args:
      folder: the workdir.
      arm, seed: as `segmenter_of` takes them.

    Raises:
      UserError: no workdir, or as `segmenter_of`.
    """
    config = saved_config(folder)
    divide_cpu(config.mesh.cpu_devices)
    cache = folder / ".compile_cache"
    if config.compile_cache and os.access(cache, os.W_OK):
        enable_compile_cache(cache)
    return segmenter_of(Run(config, Workdir(folder), make_mesh()), arm, seed)


def segmenter_of(run: Run, arm: str, seed: int | None = None) -> Segmenter:
    """What an arm of a run learnt: the checkpoint that its segmentation.checkpoint says, averages
    where they were kept.

    Args:
      run: the run; one process.
      arm: its name; "judge" is one.
      seed: which of its trainings; None: the first.

    Raises:
      UserError: no such arm or seed, one that the configuration names no more, one that needs more
        than an image, or a checkpoint that cannot be read.
    """
    config, folder = run.config, run.workdir.path
    there = trained(folder)
    seeds = [each for name, each in there if name == arm]
    if not seeds or seed not in (None, *seeds):
        told = ", ".join(f"{name} with seed {each}" for name, each in there) or "none"
        asked = f"arm '{arm}'" + ("" if seed is None else f" with seed {seed}")
        raise UserError(f"{folder} has no trained {asked}; trained are: {told}.")
    if arm not in (JUDGE, *config.segmentation.arms):
        raise UserError(
            f"{folder / 'config.json'} names no arm '{arm}' any more, and so not what network it was: only "
            f"{', '.join(config.segmentation.arms)}. Put the arm back, or choose another one."
        )
    told = _about(run)
    colors = tuple((int(r), int(g), int(b)) for r, g, b in told["colors"])
    chosen = config.segmentation.judge if arm == JUDGE else config.segmentation.arms[arm]
    check_images(config, arm, chosen)
    mine, shown = (
        settings(config.segmentation, arm, chosen),
        Shown(colors, told["foreground"], int(told["tile"])),
    )
    task, frozen, _ = arm_task(run, mine, chosen, shown, 1)
    best = ("iou", "max") if mine.checkpoint == "best" else None
    params = restore(
        run, task, f"segmentation/{arm}-{seeds[0] if seed is None else seed}", best=best
    )
    by_device = batch_sharding(run.mesh)
    maps = jax.jit(
        lambda params, frozen, image: task.maps(params, frozen, image), out_shardings=by_device
    )
    stain = _stain(told["stain"])
    predict = lambda image: maps(params, frozen, jax.device_put(stain(image), by_device))  # noqa: E731
    names, foreground = tuple(told["classes"]), tuple(told["foreground"])
    return Segmenter(
        task,
        predict,
        config,
        names,
        colors,
        foreground,
        float(told["mpp"]),
        int(told["tile"]),
        run.mesh.size,
        noted(told),
    )


def _about(run: Run) -> dict[str, Any]:
    """What was noted of the tiles when segmenters were trained; else, what the tiles tell now."""
    file = run.workdir.path / "segmentation" / ABOUT
    told = json.loads(file.read_text() if file.is_file() else json.dumps(about(run)))
    return told if "stain" in told else told | {"stain": _stain_before(run)}


def _stain(told: Mapping[str, Any] | None) -> Callable[[np.ndarray], np.ndarray]:
    """What brings patches to the stain of the tiles. Raises UserError where its numbers are not
    known."""
    if not told:
        return lambda patches: patches
    normalise, pool = (
        Normaliser(read_target(told)),
        ThreadPoolExecutor(),
    )  # OpenCV and NumPy free Python's lock
    return lambda patches: np.stack(list(pool.map(normalise, patches)))


def _stain_before(run: Run) -> dict[str, Any] | None:
    """For runs that did not note it: what their tiles tell, where they are still there and the
    same."""
    known = (run.workdir.result("data") or {}).get("fingerprint")
    try:
        if run.tiles.fingerprint == known:
            return stain_of(run.tiles.manifest.get("source", {}))
    except UserError:
        pass
    print(
        f"WARNING: this run did not note whether its tiles were brought to one stain (--stain_norm), and the tiles are "
        f"not at {run.config.data.tiles} any more: images keep their own stain.",
        file=sys.stderr,
        flush=True,
    )
    return None
