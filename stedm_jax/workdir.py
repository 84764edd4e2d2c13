"""The workdir is the run: its config, its versions, which stages are done, and who is using it.

A key of the configuration belongs to the first stage that it changes. When a run goes on in a
workdir whose configuration differed, stages that are made untrue by a changed key are never used
silently.
"""

import fcntl
import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from stedm_jax.common.errors import UserError

STAGES = (
    "data",
    "autoencoder",
    "latents",
    "ssl",
    "diffusion",
    "guided",
    "synthesis",
    "segmentation",
    "report",
)
NEEDS: dict[str, tuple[str, ...]] = {
    "data": (),
    "autoencoder": ("data",),
    "latents": ("data", "autoencoder"),
    "ssl": ("data",),
    "diffusion": ("data", "autoencoder", "latents"),
    "guided": ("data", "autoencoder", "latents", "ssl"),
    "synthesis": ("data", "autoencoder", "latents", "diffusion"),
    "segmentation": ("data", "synthesis", "guided"),
    "report": STAGES[:-1],
}
"""Stage -> those whose results it reads, where they are there; of segmentation arms read synthetic
tiles, or features. The judge that diffusion asks while it learns changes none of its results."""
_FIRST_STAGE = {"seed": "autoencoder", "dtype": "autoencoder", "title": "report"}
_HARMLESS = {
    "mesh",
    "compile_cache",
    "stages",
    "name",
    "data.missing",
    "data.threads",
    "data.cache_mb",
    "data.max_damaged",
}
_HARMLESS_LEAVES = {
    "log_every",
    "visual_every",
    "checkpoint_every",
    "snapshot_every",
    "keep",
    "skip_bad",
    "profile",
    "remat",
    "wandb",
}
_WATCH = "diffusion.watch."  # what is drawn while diffusion learns
_SYNTHESIS_KEYS = {"report.layouts", "report.styles"}  # the grid of the report is made there
_LATER_KEYS = {
    "data.groups",
    "data.foreground",
    "data.shares",
    "data.uniform",
    "data.shift",
    "data.rotate",
    "data.tile",
    "data.mpp",
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A configuration as dotted key -> plain value; tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = json.loads(json.dumps(value))
    return flat


def stage_of(key: str) -> str | None:
    """The first stage that a dotted key changes; None if it changes no result."""
    if key in _HARMLESS or key.split(".")[0] in _HARMLESS or key.split(".")[-1] in _HARMLESS_LEAVES:
        return None
    if key.startswith(_WATCH):
        return None
    if key in _LATER_KEYS:
        return "autoencoder"
    if key in _SYNTHESIS_KEYS:
        return "synthesis"
    top = key.split(".")[0]
    return _FIRST_STAGE.get(top, top if top in STAGES else "data")


def _changed_by(key: str) -> set[str]:
    """The stages that read a dotted key first."""
    first = stage_of(key)
    if first == "autoencoder" and key.split(".")[0] != first:
        return {
            stage for stage in STAGES if stage != "data"
        }  # of all that learns; the tiles are as they were
    return {first} if first else set()


def versions() -> dict[str, str]:
    """Python, the packages that decide the numbers, and the git commit where there is one."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    found = {"python": sys.version.split()[0]}
    found |= {name: importlib.metadata.version(name) for name in names}
    return found | {"stedm_jax": importlib.metadata.version("stedm_jax"), "git": _commit()}


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            or "none"
        )
    except OSError:  # no git here
        return "none"


class Workdir:
    """A run on disk.

    Attributes:
      path: the folder.
      held: file descriptors of the lock while it is held; a process that inherits them holds it
        too.
      writes: False in a process that leaves the writing to another one.
      told: what that one says the stages left; used where `writes` is False.
    """

    def __init__(self, path: Path):
        self.path = path
        self.held: tuple[int, ...] = ()
        self.writes = True
        self.told: dict[str, dict[str, Any] | None] = {}

    def fill(self, text: str) -> str:
        """A text of the configuration with this folder for {workdir}."""
        return text.replace("{workdir}", str(self.path))

    def stage(self, name: str) -> Path:
        """Folder of a stage, made if need be."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def result(self, name: str) -> dict[str, Any] | None:
        """What a stage left when it finished; None if it has not."""
        if not self.writes:
            return self.told.get(name)
        file = self.path / name / "done.json"
        return json.loads(file.read_text()) if file.exists() else None

    def started(self, name: str) -> bool:
        """Whether a stage has left anything."""
        folder = self.path / name
        left = folder.rglob("*") if folder.exists() else ()
        return any(each.is_file() and each.name != "seconds.json" for each in left)

    def forget(self, name: str) -> None:
        """Marks a stage as not done, keeping its files, and deletes all that the stages left which
        build on it."""
        (self.path / name / "done.json").unlink(missing_ok=True)
        for later in self._builds_on({name}) - {name}:
            shutil.rmtree(self.path / later, ignore_errors=True)

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, Any]]:
        """Runs a stage: yields the dict of its results, then marks it done; its seconds add up over
        restarts."""
        if not self.writes:
            yield (result := {})
            self.told[name] = result
            return
        folder = self.stage(name)
        clock = folder / "seconds.json"
        before = json.loads(clock.read_text()) if clock.exists() else 0.0
        start, result = time.monotonic(), {}
        try:
            yield result
        finally:
            seconds = before + time.monotonic() - start
            write_text(clock, json.dumps(seconds))
        write_text(
            folder / "done.json", json.dumps(result | {"seconds": round(seconds, 4)}, indent=1)
        )

    @contextmanager
    def locked(self, patience: float = 3.0) -> Iterator[None]:
        """Refuses a second run in the same workdir.

        Args:
          patience: seconds to wait for the other one to end.

        Raises:
          UserError: another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"The workdir {self.path} cannot be written ({error.strerror})."
            ) from error
        with file:
            if not _lock(file.fileno(), self.path, patience):
                raise UserError(
                    f"Another run is using {self.path}; wait for it, or give another --workdir."
                )
            self.held = (file.fileno(),)
            try:
                yield
            finally:
                self.held = ()

    def adopt(self, config: Any, on_change: str) -> list[str]:
        """Compares the configuration with the one saved here, and saves it.

        Args:
          config: of this run.
          on_change: what to do where a change makes finished work untrue: "refuse", "redo" (its
            outputs and those of later stages are deleted) or "keep" (they are used as they are).

        Returns:
          Lines that say what changed.

        Raises:
          UserError: such a change under "refuse", or a folder that holds something else.
        """
        file, new = self.path / "config.json", flatten(config)
        if not file.exists():
            others = [
                p.name
                for p in self.path.iterdir()
                if not p.name.startswith(".") and not p.name.endswith(".partial")
            ]
            if others:
                raise UserError(
                    f"{self.path} has no config.json but holds {', '.join(sorted(others)[:5])}; it is no workdir "
                    "of this program. Give another --workdir."
                )
        old, keys = self._changes(new)
        lines = [f"{key}: {old.get(key, '(none)')} -> {new.get(key, '(none)')}" for key in keys]
        untrue = self._untrue(keys)
        if untrue and on_change == "refuse":
            listed = "; ".join(line for key, line in zip(keys, lines, strict=True) if stage_of(key))
            raise UserError(
                f"{self.path} was made with another configuration ({listed}). That makes untrue: "
                f"{', '.join(untrue)}. Give another --workdir; or --on_change=redo to delete and redo those "
                "stages; or --on_change=keep to use them as they are."
            )
        if on_change == "redo":
            for stage in untrue:
                shutil.rmtree(self.path / stage)
        write_text(file, json.dumps(new, indent=1))
        write_text(self.path / "versions.json", json.dumps(versions(), indent=1))
        return lines

    def pending(self, config: Any, wanted: Sequence[str]) -> list[str]:
        """Wanted stages that have not finished, or that this configuration makes untrue; changes
        nothing."""
        untrue = self._untrue(self._changes(flatten(config))[1])
        return [stage for stage in wanted if stage in untrue or self.result(stage) is None]

    def _changes(self, new: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The configuration that is saved here, `new` where none is, and the keys that differ from
        it."""
        file, missing = self.path / "config.json", object()
        old = IMPLIED | json.loads(file.read_text()) if file.exists() else new
        return old, [
            k for k in sorted(old.keys() | new.keys()) if old.get(k, missing) != new.get(k, missing)
        ]

    def _untrue(self, keys: Sequence[str]) -> list[str]:
        changed: set[str] = set()
        for key in keys:
            changed |= _changed_by(key)
        untrue = self._builds_on(changed)
        return [stage for stage in STAGES if stage in untrue and self.started(stage)]

    def _builds_on(self, changed: set[str]) -> set[str]:
        """Some stages, and those that were made from what they left, directly or not."""
        found = set(changed)
        for stage in STAGES:  # what a stage needs stands before it
            if found.intersection(NEEDS[stage]) and self.started(stage):
                found.add(stage)
        return found


IMPLIED = {
    "segmentation.head.kind": "convolution",
    "segmentation.model.fcn8s.hidden": 4096,
    "segmentation.model.fcn8s.widths": [64, 128, 256, 512, 512],
}
"""Keys that a workdir may be older than, with what was done before there were settings for it."""


def _lock(descriptor: int, path: Path, patience: float) -> bool:
    """Takes a lock; waits a little for what a killed run had started to notice that it is alone."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.2)
        except OSError as error:
            raise UserError(
                f"The workdir {path} cannot be locked ({error.strerror}); its file system has no locks. Give a "
                "--workdir on another one."
            ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is there completely or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
