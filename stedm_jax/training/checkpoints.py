"""Checkpoints: written in the background, complete or not at all, checked before they are used.

Orbax writes the arrays; a manifest (see manifest.py) is added when all is on disk. A step without
one is not used; one whose files are no longer what was written is set aside as `<step>.damaged`,
and the step before it is used.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
from stedm_jax.common.files import write_bytes
from stedm_jax.training import manifest
from stedm_jax.training.param_paths import merged, named, split
from stedm_jax.training.state import TrainState

_UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of folders that orbax is writing


class Checkpoints:
    """The checkpoints in a directory: the last `keep`, and the best by `best` = (metric, "max" or
    "min").

    Methods that read raise UserError when what is asked for is not there or damaged.
    """

    def __init__(self, dir: Path, keep: int = 2, best: tuple[str, str] | None = None) -> None:
        self.dir, self.keep, self.best = Path(dir).absolute(), keep, best
        self._sound: set[int] = set()  # steps whose checksums were compared already
        self._writer: ocp.AsyncCheckpointer | None = None
        self._thread = ThreadPoolExecutor(1, "seal")
        self._saving: tuple[int, Future[None]] | None = None

    # Writing

    def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts to save; returns as soon as the arrays are copied off the devices.

        A step already saved is not written again; metrics given then are added to it. Errors of the
        save before (a full disk) are raised here, or in `wait` and `close`.
        """
        self.wait()
        if step in self._sound:
            if metrics is not None and jax.process_index() == 0:
                manifest.rewrite_metrics(self._folder(step), metrics)
                self._retire()
            return
        self._check_room(state, step)
        if self._writer is None:
            self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
            self._remove(f"*{_UNFINISHED}*")
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            self._writer.save(self._folder(step), args=ocp.args.Composite(**items), force=True)
        except OSError as error:
            raise self._unwritable(step, error) from error
        self._saving = step, self._thread.submit(self._seal, step, metrics or {})

    def wait(self) -> None:
        """Returns when the save under way is on disk and sealed; raises UserError when it
        failed."""
        if self._saving is None:
            return
        (step, sealed), self._saving = self._saving, None
        if error := sealed.exception():
            with suppress(Exception):  # it reports the same error once more
                self._close_writer()
            if not (self._folder(step) / manifest.NAME).exists():  # it would fill the disk
                self._remove(str(step), f"{step}{_UNFINISHED}*")
            raise self._unwritable(step, error) from error
        self._sound.add(step)

    def close(self) -> None:
        """Waits for the save under way and lets go of the directory."""
        try:
            self.wait()
        finally:
            self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _seal(self, step: int, metrics: dict[str, float]) -> None:
        assert self._writer is not None
        self._writer.wait_until_finished()
        if jax.process_index() == 0:
            manifest.write_manifest(self._folder(step), step, metrics)
            self._retire()

    def _retire(self) -> None:
        """Deletes what is neither recent nor best, and what a killed process left behind."""
        sealed = self.steps()
        wanted = {*sealed[-self.keep :], *self._ranked()[:1]}
        for step in numbered(self.dir):
            if step not in wanted and step < sealed[-1]:
                # First the manifest: from here on it is no checkpoint.
                (self._folder(step) / manifest.NAME).unlink(missing_ok=True)
                shutil.rmtree(self._folder(step), ignore_errors=True)
        aside = sorted(self.dir.glob("*.damaged*"), key=lambda path: path.stat().st_mtime)
        for folder in aside[: -self.keep]:
            shutil.rmtree(folder, ignore_errors=True)

    def _remove(self, *patterns: str) -> None:
        """Deletes what a save that failed, or a killed process, left behind."""
        if jax.process_index() == 0:
            for folder in (folder for pattern in patterns for folder in self.dir.glob(pattern)):
                shutil.rmtree(folder, ignore_errors=True)

    def check_place(self, state: TrainState) -> None:
        """Refuses (UserError) a place that cannot be written or has no room for one checkpoint of
        such a state."""
        probe = self.dir / ".probe"
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            write_bytes(probe, b"0" * 4096)
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"{self.dir} cannot be written ({error.strerror}). Give another --workdir, make "
                "room on the disk, or change its permissions, then run the same command again."
            ) from error
        self._check_room(state, None)

    def _check_room(self, state: TrainState, step: int | None) -> None:
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        place = next(each for each in (self.dir, *self.dir.parents) if each.exists())
        free = shutil.disk_usage(place).free
        if free < needed and jax.process_index() == 0:
            what = "A checkpoint" if step is None else f"The checkpoint of step {step}"
            raise UserError(
                f"{what} needs {needed / 1e6:,.1f} MB, and the disk of {self.dir} has "
                f"{free / 1e6:,.1f} MB left. {self._kept()}Make room, then run the same command "
                "again."
            )

    def _unwritable(self, step: int, error: BaseException) -> UserError:
        return UserError(
            f"The checkpoint of step {step} could not be written to {self.dir} "
            f"({type(error).__name__}: {error}). {self._kept()}Make room on the disk or make the "
            "directory writable, then run the same command again."
        )

    def _kept(self) -> str:
        steps = self.steps()
        return f"Step {steps[-1]} is kept. " if steps else ""

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
        try:
            return manifest.read_manifest(self._folder(step))["metrics"]
        except (OSError, ValueError):  # found and set aside when the step is asked for
            return {}

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
        step = self._require(step)
        trained, still = split(abstract, named(self._saved("still", step)))
        return self._params(which, trained, still, step)

    def read_params(self, step: int | None = None, which: str = "ema") -> Any:
        """As `restore_params`, for a caller who does not know the shapes: they are those that were
        saved."""
        step = self._require(step)
        trained = self._saved(which, step) or self._saved("params", step)
        return self._params(which, trained, self._saved("still", step), step)

    def read_still(self, step: int) -> Any:
        """The parameters of a step that were not trained, on the first device; {} as a rule."""
        step = self._require(step)
        return self._params("none", {}, self._saved("still", step), step)

    def _params(self, which: str, trained: Any, still: Any, step: int) -> Any:
        name = which if (self._folder(step) / which).is_dir() else "params"
        wanted = {name: trained, "still": still}
        placed = {name: jax.tree.map(_placed, item) for name, item in wanted.items() if item}
        loaded = self._restore(placed, step)
        return merged(loaded.get(name, {}), loaded.get("still", {}))

    def _saved(self, item: str, step: int) -> Any:
        """Shapes and dtypes of what was saved; {} if nothing was."""
        folder = self._folder(step).resolve() / item
        if not folder.is_dir():
            return {}
        saved: Any = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
        is_leaf = lambda node: hasattr(node, "shape")  # noqa: E731
        shape = lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)  # noqa: E731
        return jax.tree.map(shape, saved.tree, is_leaf=is_leaf)

    def _restore(self, items: dict[str, Any], step: int) -> dict[str, Any]:
        if not items:
            return {}
        args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            try:
                composite = ocp.args.Composite(**args)
                loaded = checkpointer.restore(self._folder(step), args=composite)
            except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
                raise UserError(
                    f"The checkpoint {self._folder(step)} is whole but does not fit this model or "
                    f"optimizer ({str(error).strip()[:300]}). Use the settings it was trained "
                    "with, or another workdir."
                ) from error
        return {name: loaded[name] for name in items}

    def _require(self, step: int | None) -> int:
        found = self.latest() if step is None else _agreed(self._first_sound([step]))
        if found is None:
            what = "no whole checkpoint" if step is None else f"no whole checkpoint of step {step}"
            there = f"those there: {self.steps()}" if self.steps() else "there is no other"
            raise UserError(
                f"There is {what} in {self.dir} ({there}). Train that stage first, or give another "
                "step."
            )
        return found

    def _ranked(self) -> list[int]:
        """Steps with the metric of `best`, the best first; of equals the later."""
        if self.best is None:
            return []
        name, direction = self.best
        sign = -1 if direction == "max" else 1
        scores = {step: sign * self.metrics(step).get(name, np.nan) for step in self.steps()}
        finite = [step for step in scores if np.isfinite(scores[step])]
        return sorted(finite, key=lambda step: (scores[step], -step))

    def _first_sound(self, candidates: list[int]) -> int:
        """The first whole one of the candidates, or -1; the damaged ones before it are set
        aside."""
        if jax.process_index() != 0:
            return -1
        for step in candidates:
            folder = self._folder(step)
            problem = "" if step in self._sound else manifest.damage(folder)
            if not problem:
                self._sound.add(step)
                return step
            if (folder / manifest.NAME).exists():
                problem += f". It was set aside as {self._set_aside(step)}"
            elif not folder.is_dir():
                continue
            # One without a manifest stays: another process may be writing it.
            print(
                f"The checkpoint of step {step} in {self.dir} is not used: {problem}.", flush=True
            )
        return -1

    def _set_aside(self, step: int) -> Path:
        target, number = self.dir / f"{step}.damaged", 1
        while target.exists():
            number += 1
            target = self.dir / f"{step}.damaged-{number}"
        return self._folder(step).rename(target)

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
    items = {
        "params": state.params,
        "ema": state.ema,
        "still": state.still,
        "tracks": state.tracks,
        "rest": {"step": state.step, "opt": state.opt_state},
    }
    return {name: item for name, item in items.items() if jax.tree.leaves(item)}


@contextmanager
def finished(
    folder: Path, best: tuple[str, str] | None = None
) -> Iterator[tuple[Checkpoints, int]]:
    """The checkpoints of a stage's folder and their last step, or the best by `best`; closed
    afterwards. Where no step has a finite score, it is the last, and that is printed.

    Raises:
      UserError: there is no whole one.
    """
    store = Checkpoints(folder / "checkpoints", keep=1, best=best)
    try:
        step = store.best_step()
        if step is None:
            step = store.latest()
            if best and step is not None:
                print(
                    f"note: no checkpoint of {folder} has a finite {best[0]}, as where the "
                    f"validation tiles have no foreground; the last one, step {step}, is taken",
                    flush=True,
                )
        if step is None:
            what = "run its stage first"
            if (folder / "done.json").exists():
                what = (
                    f"it was deleted after the stage had finished; delete {folder} to train again"
                )
            raise UserError(f"{folder} holds no whole checkpoint; {what}.")
        yield store, step
    finally:
        store.close()
