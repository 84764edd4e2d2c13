"""Snapshots of the tracks (averages.py), from which averages of other widths are combined after the
training.

`<stage>/snapshots/<step>/` holds `track-<width>.safetensors` and a manifest with their checksums;
it is renamed to its place when it is whole. Parameters that are not trained are left out. Single
precision: half precision rounds a weight by up to 1/2048 of itself; that is more than an average
changes late in a training or in one at a low learning rate.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_folder, is_partial
from stedm_jax.training import manifest, peers
from stedm_jax.training.averages import coefficients, exponent
from stedm_jax.training.checkpoints import finished, numbered
from stedm_jax.training.param_paths import merged, named, nested

FOLDER, TRACK = "snapshots", "track-{}.safetensors"
WORST = 0.1
"""Distance from the wanted profile, as a share of its norm, above which a combination is
refused."""
_MOST = 100
"""Snapshots up to which `check_width` looks ahead."""


class Snapshots:
    """Those of a training in the folder of its stage; all processes call the methods, the first
    writes.

    Args:
      stage: folder.
      step: that the training goes on from; what lies after it was made by a process that was
        killed, and goes.
    """

    def __init__(self, stage: Path, step: int) -> None:
        self.dir = Path(stage) / FOLDER
        peers.on_first(lambda: self._clear(step))

    def _clear(self, step: int) -> None:
        for folder in self.dir.iterdir() if self.dir.is_dir() else ():
            later = folder.name.isdecimal() and int(folder.name) > step
            if later or is_partial(folder):
                shutil.rmtree(folder)

    def write(self, step: int, tracks: Mapping[str, Any]) -> None:
        """Writes the tracks of a step, unless they are there already; returns when they are on
        disk.

        They are copied to the host track by track.

        Raises:
          OSError: the disk is full or cannot be written; nothing of this step is left.
        """
        place, first = self.dir / str(step), peers.first()
        if peers.on_first(lambda: (place / manifest.NAME).exists()):
            return
        try:
            with atomic_folder(place) if first else nullcontext() as partial:
                for name, track in tracks.items():
                    arrays = {path: _on_host(leaf) for path, leaf in named(track).items()}
                    if partial is not None:
                        save_file(arrays, partial / TRACK.format(name))
                if partial is not None:
                    manifest.write_manifest(partial, step, {})
        except SafetensorError as error:  # what a full disk is to safetensors
            raise OSError(str(error)) from error


@dataclass(frozen=True)
class Combined:
    """Parameters (float32, a nested dict) averaged with a profile of some width, and how they came
    about.

    `error`: distance from that profile, as a share of its norm. `sha256`: over all that they were
    made from.
    """

    params: dict[str, Any]
    width: float
    step: int
    snapshots: int
    error: float
    sha256: str


def combine(stage: Path, width: float, step: int | None = None) -> Combined:
    """The average of relative width `width` at `step` (default: the last snapshot), from snapshots
    up to it.

    Raises:
      UserError: an impossible width, or one too far from those of the tracks; no snapshots, or none
        of that step.
    """
    dir = Path(stage) / FOLDER
    steps = sound_steps(dir)
    if not steps:
        raise UserError(
            f"{stage} has no snapshots of tracks to combine; they are kept where train.ema.tracks "
            "names widths and train.ema.snapshot_every is above 0 while it trains."
        )
    step = steps[-1] if step is None else step
    if step not in steps:
        there = ", ".join(map(str, steps))
        raise UserError(f"{dir} has no snapshot of step {step}; those there are of steps {there}.")
    steps = [at for at in steps if at <= step]
    files = {at: sorted((dir / str(at)).glob(TRACK.format("*"))) for at in steps}
    profiles = _Profiles(
        [at for at in steps for _ in files[at]],
        [exponent(float(file.stem.removeprefix("track-"))) for at in steps for file in files[at]],
        step,
    )
    shares, error = profiles.fit(width)
    total: dict[str, Any] = {}
    for share, file in zip(shares, chain.from_iterable(files.values()), strict=True):
        for path, array in load_file(file).items():
            total[path] = total.get(path, 0.0) + share * array.astype(np.float64)
    digest = hashlib.sha256(f"{width:g} {step}".encode())
    for at in steps:
        digest.update(manifest.fingerprint(dir / str(at)).encode())
    with finished(Path(stage)) as (store, last):
        average = nested({path: array.astype(np.float32) for path, array in total.items()})
        params = merged(average, jax.tree.map(np.asarray, store.read_still(last)))
    return Combined(params, width, step, len(steps), error, digest.hexdigest())


def check_width(width: float, tracks: Sequence[float], every: int, steps: int) -> None:
    """Refuses, before a training, a width that its snapshots will not combine to.

    Args:
      width: that is wanted.
      tracks, every, steps: widths of the tracks, steps between snapshots, and steps of the
        training.

    Raises:
      UserError: an impossible width, or one too far from those of the tracks.
    """
    at = [*range(every, steps, every), steps]
    if len(at) > _MOST:  # then they reach far; the equations would take minutes
        exponent(width)
        return
    exponents = [exponent(track) for _ in at for track in tracks]
    _Profiles([step for step in at for _ in tracks], exponents, steps).fit(width)


@dataclass(frozen=True)
class _Profiles:
    """Times and exponents of the tracks in snapshots, and the step that they are combined for."""

    times: list[int]
    exponents: list[float]
    step: int

    def combined(self, width: float) -> tuple[np.ndarray, float]:
        """Shares of a width, and how far its profile is missed."""
        return coefficients(self.times, self.exponents, self.step, exponent(width))

    def fit(self, width: float) -> tuple[np.ndarray, float]:
        """As `combined`; refuses (UserError) a width that is missed by too much."""
        shares, error = self.combined(width)
        if error <= WORST:
            return shares, error
        tried = [number / 1000 for number in range(5, 288)]
        near = [each for each in tried if self.combined(each)[1] <= WORST]
        reach = f"With them widths from {min(near):g} to {max(near):g} can be had. " if near else ""
        raise UserError(
            f"The snapshots up to step {self.step} ({len(set(self.times))} of them) do not combine "
            f"to a relative width of {width:g}: their best fit is {error:.0%} off. {reach}More "
            "snapshots (train.ema.snapshot_every) reach farther."
        )


def sound_steps(dir: Path) -> list[int]:
    """Steps of the snapshots that are as they were written; says which are not."""
    steps = []
    for step in numbered(dir):
        if problem := manifest.damage(dir / str(step)):
            print(f"The snapshot {dir / str(step)} is not used: {problem}.", flush=True)
        else:
            steps.append(step)
    return steps


def _on_host(leaf: jax.Array) -> np.ndarray:
    """The whole array, wherever its parts lie; all processes have to call it."""
    if leaf.is_fully_addressable:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
