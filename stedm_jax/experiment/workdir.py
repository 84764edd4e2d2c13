"""The workdir is the run: its configuration, its versions, what each cell left, and who is making
which.

A cell's folder holds `cell.json`, written when the cell is begun: its stamp (experiment/cells.py)
and the settings behind it; and `done.json`, written when it is finished: its result. A cell whose
stamp is not that of the present
configuration is stale: it is never used silently.
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import is_partial, read_json, write_json
from stedm_jax.common.locks import Busy, locked
from stedm_jax.experiment.cells import TILES, Cell, Graph, why_not_longer

FORMAT = 2
"""Of the layout of a workdir; 1 (without a mark) was that of version 0.1."""
PATIENCE = 3.0
"""Seconds to wait for another process to let go of a cell, as one that was killed soon does."""
PATIENCE_AT_START = 120.0
"""Seconds to wait while other processes compare their configurations with the workdir."""
DONE, BEGUN, STALE, ABSENT = "done", "begun", "stale", "absent"


def versions() -> dict[str, str]:
    """Python, the packages that decide the numbers, and the git commit where there is one."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "stedm_jax")
    found = {"python": sys.version.split()[0]}
    return found | {name: importlib.metadata.version(name) for name in names} | {"git": _commit()}


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "none"
    return done.stdout.strip() or "none"


class Workdir:
    """A run on disk.

    Attributes:
      path: the folder.
      held: file descriptors of the locks that are held; a process that inherits them holds them
        too.
      writes: False in a process that leaves the writing to process 0.
      known: what process 0 said the cells left; used where `writes` is False.
    """

    def __init__(self, path: Path):
        if path.is_file():
            raise UserError(f"{path} is a file, not a folder. Give another --workdir.")
        self.path = path
        self.held: tuple[int, ...] = ()
        self.writes = True
        self.known: dict[str, dict[str, Any] | None] = {}

    def fill(self, text: str) -> str:
        """A text of the configuration with this folder for {workdir}."""
        return text.replace("{workdir}", str(self.path))

    def folder(self, name: str) -> Path:
        """Folder of a cell, or one below it, made if need be."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def result(self, name: str) -> dict[str, Any] | None:
        """What a cell left when it finished; None if it has not.

        Raises:
          UserError: the file is damaged.
        """
        return self._read(name, "done.json") if self.writes else self.known.get(name)

    def state(self, cell: Cell, stamps: Mapping[str, str]) -> str:
        """DONE, BEGUN, STALE or ABSENT, by the stamps that the cells should have.

        Before the tiles are known, only the settings behind the cell itself are compared.
        """
        recorded, finished = self._read(cell.name, "cell.json"), self._read(cell.name, "done.json")
        if recorded is None:
            # Tiles may be prepared in the folder of the data by hand.
            return STALE if cell.stage != "data" and self._left(cell.name) else ABSENT
        if stamps[TILES] and cell.stage != "data":
            same = recorded["stamp"] == stamps[cell.name]
        else:
            same = not self.differences(cell)
        if not same:
            return STALE if self._left(cell.name) else ABSENT
        if finished is None:
            return BEGUN
        other = cell.stage == "data" and stamps[TILES] not in ("", finished["fingerprint"])
        return STALE if other else DONE

    def differences(self, cell: Cell) -> list[str]:
        """The settings behind a cell that differ from the present ones: "key: old -> new"."""
        recorded = self._read(cell.name, "cell.json")
        if recorded is None:
            return []
        before = recorded["reads"]
        now = json.loads(json.dumps(cell.reads))
        return [
            f"{key}: {_short(before.get(key, '(none)'))} -> {_short(now.get(key, '(none)'))}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]

    def why_stale(self, cell: Cell) -> str:
        """What makes a cell stale, in words."""
        if changed := self.differences(cell):
            return "; ".join(changed)
        if cell.stage == "data":
            return "the tiles are not those that this run began with"
        return "what it is made from changed"

    def refuse_lost(self, names: Sequence[str]) -> None:
        """Refuses cells that have finished a training whose checkpoints are gone.

        Raises:
          UserError: names them, and what to delete to train them again.
        """
        for name in names:
            folder = self.path / name
            trained = (folder / "metrics.jsonl").exists() and (folder / "done.json").exists()
            if trained and not any(folder.glob("checkpoints/*/MANIFEST.json")):
                raise UserError(
                    f"{name} has finished, but its checkpoints were deleted: {folder}/checkpoints "
                    f"holds none. Put them back; or delete the folder {folder} to train it again."
                )

    def begin(self, cell: Cell, stamp: str) -> None:
        """Notes what a cell is made from, before anything is made."""
        if self.writes:
            record = {"stamp": stamp, "reads": cell.reads, "needs": cell.needs}
            write_json(self.folder(cell.name) / "cell.json", record, sync=True)

    @contextmanager
    def timed(self, name: str) -> Iterator[dict[str, Any]]:
        """Yields the dict of a cell's results, then marks it done; its seconds add up over
        restarts."""
        result: dict[str, Any] = {}
        if not self.writes:
            yield result
            self.known[name] = result
            return
        clock = self.folder(name) / "seconds.json"
        try:
            before = float(clock.read_text())
        except (OSError, ValueError):  # it only tells the time
            before = 0.0
        start = time.monotonic()
        try:
            yield result
        finally:
            seconds = before + time.monotonic() - start
            write_json(clock, seconds)
        done = result | {"seconds": round(seconds, 4)}
        write_json(self.path / name / "done.json", done, sync=True)

    @contextmanager
    def making(self, name: str, patience: float = 0.0) -> Iterator[None]:
        """Holds the lock of a cell.

        Raises:
          Busy: another process makes it.
        """
        file = self._lock_file(name)
        file.parent.mkdir(exist_ok=True)
        with locked(file, patience) as descriptor:
            self.held = (*self.held, descriptor)
            try:
                yield
            finally:
                self.held = tuple(each for each in self.held if each != descriptor)

    def check_place(self) -> None:
        """Refuses a folder that holds something else, or a run of version 0.1.

        Raises:
          UserError: says what was found, and what to do.
        """
        if not self.path.exists():
            return
        if not (self.path / "config.json").exists():
            names = sorted(p.name for p in self.path.iterdir())
            others = [name for name in names if not name.startswith(".") and name != "data"]
            if others and not next(self.path.glob("**/cell.json"), None):
                raise UserError(
                    f"{self.path} has no config.json but holds {', '.join(others[:5])}; it is no"
                    " workdir of this program. Give another --workdir."
                )
        elif self._read("", "config.json").get("format") != FORMAT:
            raise UserError(
                f"{self.path} was made by stedm_jax 0.1, whose workdirs this version cannot go on"
                " with. Give another --workdir, or use the version that made it."
            )

    def adopt(
        self,
        graph: Graph,
        stamps: Mapping[str, str],
        wanted: Sequence[str],
        saved: Mapping[str, Any],
        on_change: str,
    ) -> list[str]:
        """Compares wanted cells and those before them with what stands here, and saves the
        configuration.

        Args:
          graph: of the experiment.
          stamps: of its cells.
          wanted: names of the cells that will be made.
          saved: the flat configuration, for config.json.
          on_change: what to do with stale cells, but those that are `remade`: "refuse"; "redo",
            which deletes them; or "keep", which uses them as they are.

        Returns:
          Lines that say what changed.

        Raises:
          UserError: stale cells under "refuse", or one that another process is making.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The workdir {self.path} cannot be written ({error.strerror})."
            ) from error
        with ExitStack() as stack:
            self._hold(stack, self.path / ".lock", "is starting", PATIENCE_AT_START)
            self.check_place()
            if on_change == "refuse":
                self.refuse_stale(graph, stamps, wanted)
            stale = self.stale(graph, stamps, wanted)
            again = () if on_change == "keep" else stale
            for name in (*again, *self.stale(graph, stamps, wanted, remade=True)):
                if name != "data":
                    self._refuse_link(self.path / name)  # before anything is deleted
            lines = [f"{name}: {self._in_words(graph[name], stamps)}" for name in stale]
            for name in stale:
                self._hold(stack, self._lock_file(name), f"is making {name}", PATIENCE)
                if on_change == "keep":
                    self._keep(graph[name], stamps)
                elif self._why_not_longer(graph[name], stamps) == "":
                    self._lengthen(graph[name], stamps)
                else:
                    self.forget(graph[name])
            write_json(self.path / "config.json", {"format": FORMAT} | dict(saved), sync=True)
            write_json(self.path / "versions.json", versions())
        return lines

    def refuse_stale(self, graph: Graph, stamps: Mapping[str, str], wanted: Sequence[str]) -> None:
        """Refuses to use cells that other settings, or other tiles, have made.

        Raises:
          UserError: names them and what changed.
        """
        stale = self.stale(graph, stamps, wanted)
        changed = [name for name in stale if self.differences(graph[name])]
        rest = [name for name in stale if name not in changed]
        lines = [f"{name} ({self._in_words(graph[name], stamps)})" for name in changed]
        if rest:
            lines.append(f"{', '.join(rest)} ({self.why_stale(graph[rest[0]])})")
        if stale:
            raise UserError(
                f"{self.path} was made with another configuration. That invalidates"
                f" {'; '.join(lines)}. Give another --workdir; or --on_change=redo to delete and"
                " redo these; or --on_change=keep to use them as they are."
            )

    def stale(
        self,
        graph: Graph,
        stamps: Mapping[str, str],
        wanted: Sequence[str],
        remade: bool = False,
    ) -> list[str]:
        """Those of the wanted cells and of the cells before them that are stale, in order: of those
        that are `remade`, or of the others."""
        involved = set(wanted).union(*(graph.before(name) for name in wanted))
        return [
            name
            for name in graph
            if name in involved
            and graph[name].remade == remade
            and self.state(graph[name], stamps) == STALE
        ]

    def _hold(self, stack: ExitStack, file: Path, does: str, patience: float) -> None:
        file.parent.mkdir(exist_ok=True)
        try:
            stack.enter_context(locked(file, patience))
        except Busy:
            raise UserError(
                f"Another run {does} in {self.path}; wait for it, or give another --workdir."
            ) from None

    def _lock_file(self, name: str) -> Path:
        return self.path / ".locks" / f"{name.replace('/', '@')}.lock"

    def _in_words(self, cell: Cell, stamps: Mapping[str, str]) -> str:
        """As `why_stale`, and whether a training with more steps goes on."""
        why = self._why_not_longer(cell, stamps)
        if why is None:
            return self.why_stale(cell)
        how = f"begins anew, because {why}" if why else "goes on from its last checkpoint"
        return f"{self.why_stale(cell)}; redo {how}"

    def _why_not_longer(self, cell: Cell, stamps: Mapping[str, str]) -> str | None:
        recorded = self._read(cell.name, "cell.json")
        return why_not_longer(cell, recorded, stamps) if recorded else None

    def _lengthen(self, cell: Cell, stamps: Mapping[str, str]) -> None:
        """Lets a finished training go on from its checkpoints; what it scored is forgotten."""
        for name in ("done.json", "scores.json"):
            (self.path / cell.name / name).unlink(missing_ok=True)
        self.begin(cell, stamps[cell.name])

    def _keep(self, cell: Cell, stamps: Mapping[str, str]) -> None:
        """Takes what a cell left as if it had been made with the present settings and tiles."""
        self.begin(cell, stamps[cell.name])
        finished = self._read(cell.name, "done.json")
        if cell.stage == "data" and finished:
            write_json(
                self.path / cell.name / "done.json", finished | {"fingerprint": stamps[TILES]}
            )

    def forget(self, cell: Cell) -> None:
        """Deletes what a cell left. Of data prepared by others only the record goes."""
        folder = self.path / cell.name
        if cell.stage == "data" and not self.differences(cell):
            for name in ("done.json", "cell.json"):
                (folder / name).unlink(missing_ok=True)
            return
        self._refuse_link(folder)
        try:
            (folder / "done.json").unlink(missing_ok=True)  # first: what is left is no result
            shutil.rmtree(folder)
        except OSError as error:
            raise UserError(
                f"{folder} is out of date and cannot be deleted ({error.strerror}:"
                f" {error.filename}). Delete it yourself, or give another --workdir."
            ) from error

    def _refuse_link(self, folder: Path) -> None:
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a link, and what it points to is out of date. Delete it yourself, or"
                " give another --workdir."
            )

    def _left(self, name: str) -> bool:
        """Whether a cell has left anything beside its own record."""
        known = {"seconds.json", "cell.json"}
        paths = (self.path / name).rglob("*")
        files = (path for path in paths if path.is_file() or path.is_symlink())
        return any(path.name not in known and not is_partial(path) for path in files)

    def _read(self, name: str, file: str) -> Any:
        path = self.path / name / file
        try:
            return read_json(path)
        except FileNotFoundError:
            return None


def _short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
