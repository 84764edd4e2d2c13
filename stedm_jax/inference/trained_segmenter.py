"""A trained segmenter of a workdir, ready to be used on images; the tiles it learned from need not
be there."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.data.stain import Normalizer, read_target
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.counted import best_of
from stedm_jax.experiment.learn import restore
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.saved import check_made_with, open_run
from stedm_jax.experiment.segmenters import Scored, about_tiles, trained
from stedm_jax.inference.seen_stain import SeenColors, seen_colors
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.root import Settings
from stedm_jax.tasks.build import Shown, build_segmenter
from stedm_jax.tasks.pixel_head import DENOISER, PixelHeadTask
from stedm_jax.tasks.segmentation import SegmentationTask
from stedm_jax.training.sharding import batch_sharding


@dataclass(frozen=True)
class Segmenter:
    """A trained segmenter.

    Attributes:
      task: how its maps are made a mask and objects.
      predict: RGB patches (batch, t, t, 3), uint8, to the maps that are fused (task.maps); compiled
        once a shape. Where the tiles were brought to one stain, each patch is too, by itself as
        they were.
      settings: of the run.
      names, colors, foreground: of the classes.
      mpp, tile: um per pixel, and side in pixels, of the tiles it learned from.
      devices: what a batch is divided by.
      learnt: stage -> patients that it learned from, as far as is known.
      identity: a checksum of its weights, and of what it knows about the tiles.
      seen: measures the colors of the tiles it learned from, where they are there; None: they are
        not, or images are brought to one stain.
      combined: whether the last map is the mean entropy of several predictions (combine.py).
    """

    task: SegmentationTask
    predict: Callable[[UInt8[np.ndarray, "b t t 3"]], jax.Array]
    settings: Settings
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    foreground: tuple[int, ...]
    mpp: float
    tile: int
    devices: int
    learnt: Mapping[str, Sequence[str]] = field(default_factory=dict)
    identity: str = ""
    combined: bool = False
    seen: Callable[[], SeenColors | None] = lambda: None


def load_segmenter(folder: Path, arm: str, seed: int | None = None) -> Segmenter:
    """Loads what an arm of a workdir learned, on all devices of this process.

    Args:
      folder: the workdir.
      arm, seed: as `segmenter_of` takes them.

    Raises:
      UserError: no workdir, or as `segmenter_of`.
    """
    return segmenter_of(open_run(folder), arm, seed)


def load_members(folder: Path, arm: str) -> list[Segmenter]:
    """What all trained seeds of an arm of a workdir learned, of a grid those of its first point;
    errors as `load_segmenter`."""
    context = open_run(folder)
    first = _wanted(context, arm, None)
    seeds = [one.seed for one in trained(folder) if one.name == first.name]
    return [segmenter_of(context, first.name, seed) for seed in seeds]


def segmenter_of(context: Context, arm: str, seed: int | None = None) -> Segmenter:
    """What an arm of a run learned: the checkpoint that its segmentation.checkpoint names, averages
    where they were kept.

    Args:
      context: the run; one process.
      arm: its name; "judge" is one; on a grid ARM@DRAW.SEED, or the first of that arm.
      seed: which of its trainings; None: the first.

    Raises:
      UserError: no such arm or seed, one that the configuration names no more or that was made with
        other settings, one that needs more than an image, or a checkpoint that cannot be read.
    """
    settings, folder = context.settings, context.workdir.path
    one = _wanted(context, arm, seed)
    context, arm = context.at(one.point), one.arm
    if arm not in (JUDGE, *settings.arms):
        raise UserError(
            f"{folder / 'config.json'} names no arm '{arm}' any more, and so not what network it "
            f"was: only {', '.join(settings.arms)}. Put the arm back, or choose another one."
        )
    if settings.reads_around(arm):
        raise UserError(
            f"The arm '{arm}' cannot segment images: the guide of its denoiser has a region token "
            "(guided.guide.tokens), which is made of the field around each tile, and an image has "
            "no field around it at its edge. Choose an arm of another network."
        )
    check_made_with(context.workdir, settings, one.cell)
    about = about_tiles(context)
    colors = tuple((int(r), int(g), int(b)) for r, g, b in about["colors"])
    names, foreground = tuple(about["classes"]), tuple(about["foreground"])
    shown = Shown(colors, foreground, int(about["tile"]))
    task, frozen = _task(context, arm, shown)
    params = restore(context, task, one.cell, best=best_of(settings.arm(arm)))[0]
    by_device = batch_sharding(context.mesh)
    maps = jax.jit(task.maps, out_shardings=by_device)
    stain = _stain(about["stain"])
    return Segmenter(
        task,
        lambda image: maps(params, frozen, jax.device_put(stain(image), by_device)),
        settings,
        names,
        colors,
        foreground,
        float(about["mpp"]),
        int(about["tile"]),
        context.mesh.size,
        about["learnt"],
        _identity((params, frozen), {**about, "learnt": None, "arm": arm}),
        seen=lambda: None if about["stain"] else seen_colors(context),
    )


def _identity(weights: Any, about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in jax.tree.leaves(weights):
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _wanted(context: Context, arm: str, seed: int | None) -> Scored:
    """The training that an arm with a seed stands for; errors as segmenter_of."""
    settings, folder = context.settings, context.workdir.path
    known = trained(folder)
    chosen = [one for one in known if arm in (one.arm, one.name) and seed in (None, one.seed)]
    if not chosen:
        listed = ", ".join(f"{one.name} with seed {one.seed}" for one in known) or "none"
        asked = f"arm '{arm}'" + ("" if seed is None else f" with seed {seed}")
        raise UserError(f"{folder} has no trained {asked}; trained are: {listed}.")
    one = chosen[0]
    if one.taken:
        check_made_with(context.workdir, settings, one.cell)
        if settings.arm_entry(one.arm).normalize:
            raise UserError(
                f"The arm '{one.arm}' scores patients in the stain of the training tiles, measured "
                "by all tiles of a patient; images alone are not brought to it. Choose the arm "
                f"'{settings.arm_entry(one.arm).choose[0]}', whose segmenter it is."
            )
        one = next(each for each in known if each.cell == one.taken)
    return one


def _task(context: Context, arm: str, shown: Shown) -> tuple[SegmentationTask, Any]:
    """The task of an arm, and its frozen parameters."""
    settings = context.settings
    if not settings.arm_entry(arm).is_head:
        return build_segmenter(settings, arm, shown, 1, context.dtype), {}
    below = Learned(context).trained_guided(settings.arm(arm).features.weights)
    task = build_segmenter(settings, arm, shown, 1, context.dtype, below.task)
    assert isinstance(task, PixelHeadTask)
    if task.tunes:  # the denoiser is among what was trained
        below.frozen.pop(DENOISER)
    return task, below.frozen


def _stain(info: Mapping[str, Any] | None) -> Callable[[np.ndarray], np.ndarray]:
    """What brings patches to the stain of the tiles.

    Raises:
      UserError: its numbers are not known.
    """
    if not info:
        return lambda patches: patches
    normalize = Normalizer(read_target(info))
    pool = ThreadPoolExecutor()  # OpenCV and NumPy free Python's lock
    return lambda patches: np.stack(list(pool.map(normalize, patches)))
