"""Snapshots of the tracks (tracks.py), from which averages of other widths are combined after the
training.

`<stage>/snapshots/<step>/` holds `track-<width>.safetensors` and a manifest with their checksums;
it is renamed to its place when it is whole. Parameters that are not trained are left out. Single
  precision: half precision rounds a weight
by up to 1/2048 of itself, which is more than an average changes late in a training or in one at a
low learning rate.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stedm_jax.common.errors import UserError
from stedm_jax.training import manifest, peers
from stedm_jax.training.checkpoints import finished, numbered
from stedm_jax.training.param_paths import merged, named, nested
from stedm_jax.training.sharding import replicated
from stedm_jax.training.tracks import coefficients, exponent

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
        if not self.dir.is_dir():
            return
        for folder in self.dir.iterdir():
            if folder.name.endswith(".partial") or (
                folder.name.isdecimal() and int(folder.name) > step
            ):
                shutil.rmtree(folder)

    def write(self, step: int, tracks: Mapping[str, Any]) -> None:
        """Writes the tracks of a step, unless they are there already; returns when they are on
        disk.

        They are copied to the host track by track.

        Raises:
          OSError: the disk is full or cannot be written; nothing of this step is left.
        """
        place = self.dir / str(step)
        if peers.on_first(lambda: (place / manifest.NAME).exists()):
            return
        partial = self.dir / f"{step}.partial"
        if peers.first():
            partial.mkdir(parents=True, exist_ok=True)
        try:
            for name, track in tracks.items():
                arrays = {path: _on_host(leaf) for path, leaf in named(track).items()}
                if peers.first():
                    save_file(arrays, partial / TRACK.format(name))
            if peers.first():
                manifest.write_manifest(partial, step, {})
                partial.rename(place)
        except SafetensorError as error:  # what a full disk is to safetensors
            raise OSError(str(error)) from error
        finally:
            if peers.first():
                shutil.rmtree(partial, ignore_errors=True)


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
    wanted, dir = exponent(width), Path(stage) / FOLDER
    steps = sound_steps(dir)
    if not steps:
        raise UserError(
            f"{stage} has no snapshots of tracks to combine; they are kept where train.ema.tracks names widths and "
            "train.ema.snapshot_every is above 0 while it trains."
        )
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(
            f"{dir} has no snapshot of step {step}; those there are of steps {', '.join(map(str, steps))}."
        )
    files = [
        (at, file)
        for at in steps
        if at <= step
        for file in sorted((dir / str(at)).glob(TRACK.format("*")))
    ]
    times, exponents = (
        [at for at, _ in files],
        [exponent(float(file.stem.removeprefix("track-"))) for _, file in files],
    )
    shares, error = coefficients(times, exponents, step, wanted)
    if error > WORST:
        raise UserError(_too_far(width, times, exponents, step, error))
    total: dict[str, Any] = {}
    for share, (_, file) in zip(shares, files, strict=True):
        for path, array in load_file(file).items():
            total[path] = total.get(path, 0.0) + share * array.astype(np.float64)
    digest = hashlib.sha256(f"{width:g} {step}".encode())
    for at in sorted(set(times)):
        digest.update(manifest.fingerprint(dir / str(at)).encode())
    with finished(Path(stage)) as (store, last):
        average = nested({path: array.astype(np.float32) for path, array in total.items()})
        params = merged(average, jax.tree.map(np.asarray, store.read_still(last)))
    return Combined(params, width, step, len(set(times)), error, digest.hexdigest())


def check_width(width: float, tracks: Sequence[float], every: int, steps: int) -> None:
    """Refuses, before a training, a width that its snapshots will not combine to.

    Args:
      width: that is wanted.
      tracks, every, steps: widths of the tracks, steps between snapshots, and steps of the
        training.

    Raises:
      UserError: an impossible width, or one too far from those of the tracks.
    """
    wanted, at = exponent(width), [*range(every, steps, every), steps]
    if len(at) > _MOST:  # then they reach far; the equations would take minutes
        return
    times, exponents = (
        [step for step in at for _ in tracks],
        [exponent(track) for _ in at for track in tracks],
    )
    error = coefficients(times, exponents, steps, wanted)[1]
    if error > WORST:
        raise UserError(_too_far(width, times, exponents, steps, error))


def sound_steps(dir: Path) -> list[int]:
    """Steps of the snapshots that are as they were written; says which are not."""
    steps = []
    for step in numbered(dir):
        if problem := manifest.damage(dir / str(step)):
            print(f"The snapshot {dir / str(step)} is not used: {problem}.", flush=True)
        else:
            steps.append(step)
    return steps


def _too_far(
    width: float, times: list[int], exponents: list[float], step: int, error: float
) -> str:
    near = [
        w / 1000
        for w in range(5, 288)
        if coefficients(times, exponents, step, exponent(w / 1000))[1] <= WORST
    ]
    reach = f"With them widths from {min(near):g} to {max(near):g} can be had. " if near else ""
    return (
        f"The snapshots up to step {step} ({len(set(times))} of them) do not combine to a relative width of {width:g}: "
        f"their best fit is {error:.0%} off. {reach}More snapshots (train.ema.snapshot_every) reach farther."
    )


def _on_host(leaf: jax.Array) -> np.ndarray:
    """The whole array on the first process; nothing on the others."""
    if not leaf.is_fully_addressable:
        leaf = _whole(leaf.sharding.mesh)(leaf)  # pyright: ignore[reportAttributeAccessIssue]
    return np.asarray(leaf) if peers.first() else np.zeros(0)


@lru_cache(maxsize=2)
def _whole(mesh: Mesh) -> Any:
    return jax.jit(lambda leaf: leaf, out_shardings=replicated(mesh))
