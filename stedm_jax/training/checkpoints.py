"""Checkpoints: written in the background, complete or not at all, checked before they are used.

Orbax writes the arrays; a manifest (see manifest.py) is added when all is on disk. A step without
one, or whose files are no longer what was written, is set aside as `<step>.damaged`; the step
before it is used.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from stedm_jax.common.errors import UserError
from stedm_jax.training import manifest
from stedm_jax.training.param_paths import merged, named, split
from stedm_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints in a directory: the last `keep`, and the best by `best` = (metric, "max" or
    "min").

    Methods that read raise UserError when what is asked for is not there or damaged.
    """

    def __init__(self, dir: Path, keep: int = 2, best: tuple[str, str] | None = None) -> None:
        if best is not None and best[1] not in ("max", "min"):
            raise ValueError(f"best is (metric, 'max' or 'min'), not {best}")
        self.dir, self.keep, self.best = Path(dir).absolute(), keep, best
        self._sound: set[int] = set()  # steps whose checksums were compared already
        self._manager: ocp.CheckpointManager | None = None
        self._sealer: threading.Thread | None = None
        self._sealing: int | None = None
        self._error: BaseException | None = None

    # Writing

    def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts to save; returns as soon as the arrays are copied off the devices.

        A step already saved is not written again; metrics given then are added to it. Errors of the
        save before (a full disk) are raised here, or in `wait` and `close`.
        """
        self.wait()
        if step in self._sound and metrics is not None and jax.process_index() == 0:
            manifest.rewrite_metrics(self._folder(step), dict(metrics))
            self._retire()
        if step in self._sound:
            return
        self._check_room(state, step)
        try:
            self._open().save(step, args=_save_args(state), force=True)
        except OSError as error:
            raise self._unwritable(step, error) from error
        self._sealing = step
        self._sealer = threading.Thread(
            target=self._seal, args=(step, dict(metrics or {})), name=f"seal-{step}"
        )
        self._sealer.start()

    def wait(self) -> None:
        """Returns when the save under way is on disk and sealed; raises UserError when it
        failed."""
        if self._sealer is None or self._sealing is None:
            return
        self._sealer.join()
        step, self._sealer, self._sealing = self._sealing, None, None
        if self._error is not None:
            error, self._error = self._error, None
            self._drop()
            self._discard(step)
            raise self._unwritable(step, error) from error
        self._sound.add(step)

    def close(self) -> None:
        """Waits for the save under way and lets go of the directory."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _drop(self) -> None:
        """Lets go of a manager whose save failed; it says so once more whatever is asked of it."""
        manager, self._manager = self._manager, None
        with suppress(Exception):
            if manager is not None:
                manager.close()

    def _seal(self, step: int, metrics: dict[str, float]) -> None:
        assert self._manager is not None
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                manifest.write_manifest(self._folder(step), step, metrics)
                self._retire()
        except BaseException as error:  # raised again in wait()
            self._error = error

    def _retire(self) -> None:
        """Deletes what is neither recent nor best, and what a killed process left behind."""
        sealed = self.steps()
        wanted = set(sealed[-self.keep :]) | set(self._ranked()[:1])
        for step in numbered(self.dir):
            if step not in wanted and step < sealed[-1]:
                folder = self._folder(step)
                (folder / manifest.NAME).unlink(
                    missing_ok=True
                )  # first: from here on it is no checkpoint
                shutil.rmtree(folder, ignore_errors=True)
        aside = sorted(self.dir.glob("*.damaged*"), key=lambda path: path.stat().st_mtime)
        for folder in aside[: -self.keep]:
            shutil.rmtree(folder, ignore_errors=True)

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._clear_unfinished()
            self.dir.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True, lightweight_initialize=True
            )
            self._manager = ocp.CheckpointManager(self.dir, options=options)
        return self._manager

    def _clear_unfinished(self) -> None:
        """Sets aside what a killed process left, which orbax would stumble over; for the writer
        only."""
        if jax.process_index() == 0:
            for step in set(numbered(self.dir)) - set(self.steps()):
                self._set_aside(step, "it was never finished")
        self.latest()  # moves damaged ones; with several processes, all wait here for the first

    def check_place(self, state: TrainState) -> None:
        """Refuses (UserError) a place that cannot be written or has no room for one checkpoint of
        such a state."""
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            probe = self.dir / f".probe-{os.getpid()}"
            try:
                probe.write_bytes(b"0" * 4096)
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.dir} cannot be written ({error.strerror}). Give another --workdir, make room on the disk, or "
                "change who may write there, then run the same command again."
            ) from error
        self._check_room(state, None)

    def _check_room(self, state: TrainState, step: int | None) -> None:
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(
            next(each for each in (self.dir, *self.dir.parents) if each.exists())
        ).free
        if free < needed and jax.process_index() == 0:
            what = "A checkpoint" if step is None else f"The checkpoint of step {step}"
            kept = self.steps()
            raise UserError(
                f"{what} needs {needed / 1e6:,.1f} MB, and the disk of {self.dir} has {free / 1e6:,.1f} MB left. "
                f"{f'Step {kept[-1]} is kept. ' if kept else ''}Make room, then run the same command again."
            )

    def _discard(self, step: int) -> None:
        """Deletes what a failed save left, so that it does not fill the disk."""
        if jax.process_index() == 0 and not (self._folder(step) / manifest.NAME).exists():
            for folder in (self._folder(step), *self.dir.glob(f"{step}.orbax-checkpoint-tmp*")):
                shutil.rmtree(folder, ignore_errors=True)

    def _unwritable(self, step: int, error: BaseException) -> UserError:
        kept = self.steps()
        return UserError(
            f"The checkpoint of step {step} could not be written to {self.dir} "
            f"({type(error).__name__}: {error}). {f'Step {kept[-1]} is kept. ' if kept else ''}"
            f"Make room on the disk or make the directory writable, then run the same command again."
        )

    # Reading

    def steps(self) -> list[int]:
        """Steps that were saved completely, in order (their checksums not compared)."""
        return [
            step for step in numbered(self.dir) if (self._folder(step) / manifest.NAME).exists()
        ]

    def latest(self) -> int | None:
        """The newest step that is whole; newer damaged ones are set aside, with a message."""
        self.wait()
        return _agreed(self._first_sound(numbered(self.dir)[::-1]))

    def best_step(self) -> int | None:
        """The best step that is whole; None when no `best` was given or no step has that metric."""
        self.wait()
        return _agreed(self._first_sound(self._ranked()))

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics saved with a step, maybe none."""
        return self._manifest(step)["metrics"]

    def fingerprint(self, step: int) -> str:
        """SHA-256 over all files of a step, to say later which weights were used."""
        self._require(step)
        return manifest.fingerprint(self._folder(step))

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """Loads a whole state (default: the latest) as `abstract` describes it, on any mesh."""
        items = self._restore(_items(abstract), self._require(step))
        rest = items["rest"]
        ema, still, tracks = (items.get(name, {}) for name in ("ema", "still", "tracks"))
        return TrainState(rest["step"], items["params"], ema, rest["opt"], still, tracks)

    def restore_params(self, abstract: Any, step: int | None = None, which: str = "ema") -> Any:
        """Loads only the parameters (or their average, "ema"; the parameters where none was kept).

        Leaves of `abstract` without a sharding go to the first device.
        """
        if which not in ("ema", "params"):
            raise ValueError(f"which is 'ema' or 'params', not {which!r}")
        step = self._require(step)
        name = which if self._has(which, step) else "params"
        kept = named(self._saved("still", step)) if self._has("still", step) else {}
        trained, still = split(abstract, kept) if kept else (abstract, {})
        wanted = {name: jax.tree.map(_placed, trained), "still": jax.tree.map(_placed, still)}
        loaded = self._restore({name: item for name, item in wanted.items() if item}, step)
        return merged(loaded[name], loaded.get("still", {}))

    def read_params(self, step: int | None = None, which: str = "ema") -> Any:
        """As `restore_params`, for a caller who does not know the shapes: they are those that were
        saved."""
        step = self._require(step)
        name = which if self._has(which, step) else "params"
        still = self._saved("still", step) if self._has("still", step) else {}
        return self.restore_params(merged(self._saved(name, step), still), step, which)

    def read_still(self, step: int) -> Any:
        """The parameters of a step that were not trained, on the first device; {} as a rule."""
        step = self._require(step)
        still = (
            jax.tree.map(_placed, self._saved("still", step)) if self._has("still", step) else {}
        )
        return self._restore({"still": still}, step)["still"] if still else {}

    def _has(self, item: str, step: int) -> bool:
        return (self._folder(step) / item).is_dir()

    def _saved(self, item: str, step: int) -> Any:
        """Shapes and dtypes of what was saved."""
        saved: Any = ocp.StandardCheckpointHandler().metadata(
            epath.Path(self._folder(step).resolve() / item)
        )
        is_leaf = lambda node: hasattr(node, "shape")  # noqa: E731
        shape = lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)  # noqa: E731
        return jax.tree.map(shape, saved.tree, is_leaf=is_leaf)

    def _restore(self, items: dict[str, Any], step: int) -> dict[str, Any]:
        args = ocp.args.Composite(
            **{name: ocp.args.StandardRestore(item) for name, item in items.items()}
        )
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            try:
                loaded = checkpointer.restore(self._folder(step), args=args)
            except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
                raise UserError(
                    f"The checkpoint {self._folder(step)} is whole but does not fit this model or optimiser "
                    f"({str(error).strip()[:300]}). Use the settings it was trained with, or another workdir."
                ) from error
        return {name: loaded[name] for name in items}

    def _require(self, step: int | None) -> int:
        found = self.latest() if step is None else _agreed(self._first_sound([step]))
        if found is None:
            what = "no whole checkpoint" if step is None else f"no whole checkpoint of step {step}"
            there = f"those there: {self.steps()}" if self.steps() else "there is no other"
            raise UserError(
                f"There is {what} in {self.dir} ({there}). Train that stage first, or give another step."
            )
        return found

    def _ranked(self) -> list[int]:
        """Steps with the metric of `best`, the best first; of equals the later."""
        if self.best is None:
            return []
        name, direction = self.best
        scores = {step: self._manifest(step)["metrics"].get(name, np.nan) for step in self.steps()}
        sign = -1 if direction == "max" else 1
        return sorted(
            (s for s in scores if np.isfinite(scores[s])),
            key=lambda step: (sign * scores[step], -step),
        )

    def _manifest(self, step: int) -> dict[str, Any]:
        try:
            return manifest.read_manifest(self._folder(step))
        except (OSError, ValueError):  # found and set aside when the step is asked for
            return {"metrics": {}}

    def _first_sound(self, candidates: list[int]) -> int:
        """The first whole one of the candidates, or -1; the damaged ones before it are set
        aside."""
        if jax.process_index() != 0:
            return -1
        for step in candidates:
            problem = "" if step in self._sound else manifest.damage(self._folder(step))
            if not problem:
                self._sound.add(step)
                return step
            if (self._folder(step) / manifest.NAME).exists():
                self._set_aside(step, problem)
            elif self._folder(
                step
            ).is_dir():  # not moved by a reader: another process may be writing it
                print(
                    f"The checkpoint of step {step} in {self.dir} is not used: {problem}.",
                    flush=True,
                )
        return -1

    def _set_aside(self, step: int, problem: str) -> None:
        number, target = 1, self.dir / f"{step}.damaged"
        while target.exists():
            number, target = number + 1, self.dir / f"{step}.damaged-{number}"
        self._folder(step).rename(target)
        print(
            f"The checkpoint of step {step} is not used: {problem}. It was set aside as {target}.",
            flush=True,
        )

    def _folder(self, step: int) -> Path:
        return self.dir / str(step)


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def numbered(dir: Path) -> list[int]:
    """Numbers that folders in a directory have for names, in order."""
    if not dir.is_dir():
        return []
    return sorted(
        int(path.name) for path in dir.iterdir() if path.name.isdecimal() and path.is_dir()
    )


def _agreed(step: int) -> int | None:
    """Process 0 looks at the files; the others take its answer."""
    if jax.process_count() > 1:
        step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    return None if step < 0 else step


def _items(state: TrainState) -> dict[str, Any]:
    """Parts stored apart, so that each can be loaded alone; orbax refuses empty ones."""
    rest = {"step": state.step, "opt": state.opt_state}
    items = {
        "params": state.params,
        "ema": state.ema,
        "still": state.still,
        "tracks": state.tracks,
        "rest": rest,
    }
    return {name: item for name, item in items.items() if jax.tree.leaves(item)}


def _save_args(state: TrainState) -> ocp.args.Composite:
    return ocp.args.Composite(
        **{name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
    )


@contextmanager
def finished(
    folder: Path, best: tuple[str, str] | None = None
) -> Iterator[tuple[Checkpoints, int]]:
    """The checkpoints of a stage's folder and their last step, or the best by `best`; closed
    afterwards.

    Raises:
      UserError: there is no whole one.
    """
    store = Checkpoints(folder / "checkpoints", keep=1, best=best)
    try:
        step = store.best_step() if best else store.latest()
        if step is None:
            raise UserError(f"{folder} holds no whole checkpoint; run its stage first.")
        yield store, step
    finally:
        store.close()
