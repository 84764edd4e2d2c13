"""Brings up devices and workdir, says what will happen, and makes the cells one after the other."""

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import Any

import jax

from stedm_jax.common.errors import UserError
from stedm_jax.common.locks import Busy
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.check import check_cells, check_data, check_weights, check_whole
from stedm_jax.experiment.context import Context, tiles_now
from stedm_jax.experiment.devices import divide_cpu, mesh_of
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.points import on_grid
from stedm_jax.experiment.workdir import DONE, PATIENCE, STALE, Workdir
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.root import Settings
from stedm_jax.training import peers
from stedm_jax.training.hardware import enable_compile_cache
from stedm_jax.training.signals import Signals

REPORT = "report"
SHOWN = 20
"""Settings that differ from the defaults and are printed."""
PAUSE = 2.0
"""Seconds between two looks at cells that other processes are making."""


@dataclass(frozen=True)
class Share:
    """Which share of the cells a process makes: `number` of `of`, from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Share | None":
        """Reads "2/8"; None from "".

        Raises:
          UserError: it is no such share.
        """
        if not text:
            return None
        number, _, of = text.partition("/")
        if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
            raise UserError(f"--cells={text} is no share; give NUMBER/COUNT, as --cells=2/8.")
        return cls(int(number), int(of))


def run_cells(
    settings: Settings,
    workdir: Workdir,
    wanted: Sequence[str],
    on_change: str,
    share: Share | None = None,
    verbose: bool = False,
) -> None:
    """Makes cells in their order; finished ones are skipped.

    Of several processes of one training each calls this; process 0 alone writes into the workdir
    and speaks, except for errors.

    Args:
      settings: of the experiment.
      workdir: where the results go.
      wanted: stages and cells; empty: all.
      on_change: what to do with cells made with other settings, as `Workdir.adopt` takes it.
      share: of several runs that fill one workdir, which cells this one is responsible for. What
        these need is made by whoever comes first.
      verbose: print all settings that differ from the defaults, not SHOWN of them.

    Raises:
      UserError: the configuration does not go with the workdir, or a stage meets something the user
        can repair.
      Stopped, KeyboardInterrupt: it was asked to stop.
    """
    with ExitStack() as stack:
        workdir.writes = peers.first()
        if not workdir.writes:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        signals = stack.enter_context(Signals(workdir.path, shared=share is not None))
        divide_cpu(settings.mesh.cpu_devices)
        context = Context(settings, workdir, mesh_of(settings), signals)
        stack.callback(_report_damaged, context)
        runner = _Runner(context, Graph(settings), wanted, share, verbose)
        runner.adopt(on_change)
        if settings.compile_cache:
            enable_compile_cache(workdir.path / ".compile_cache")
        runner.run(on_change)


def preview(settings: Settings, workdir: Workdir) -> None:
    """Reports on the cells that are done, in the folder `preview` of the workdir; makes none.

    Raises:
      UserError: no tiles are there yet.
    """
    divide_cpu(settings.mesh.cpu_devices)
    with Signals(workdir.path) as signals:
        context = Context(settings, workdir, mesh_of(settings), signals)
        importlib.import_module("stedm_jax.stages.report").preview(context)


class _Runner:
    def __init__(
        self,
        context: Context,
        graph: Graph,
        wanted: Sequence[str],
        share: Share | None,
        verbose: bool = False,
    ):
        self.verbose = verbose
        self.context, self.graph, self.share = context, graph, share
        self.workdir, self.settings = context.workdir, context.settings
        self.learned, self.tiles, self.waiting = Learned(context), "", ""  # learned at one point
        self.named = bool(wanted)
        self.wanted = graph.select(wanted) if wanted else graph.goals
        self.cells = self.wanted
        if share:
            goals = [name for name in self.wanted if name != REPORT]
            self.cells = _with_needs(graph, goals[share.number - 1 :: share.of])

    def adopt(self, on_change: str) -> None:
        """Checks everything before anything is deleted and before the configuration is saved."""
        stamps, cells = self.stamps(), self.cells
        left = self._left(cells)
        if on_change == "refuse":
            peers.on_first(lambda: self.workdir.refuse_stale(self.graph, stamps, cells))
        self._check_needs(left)
        if "data" in left:
            peers.on_first(lambda: check_data(self.context))
        check_cells(self.context, left)
        if "data" not in left and {REPORT} & {*left, *self.wanted}:
            peers.on_first(lambda: check_whole(self.context))
        if not self.tiles and on_change != "refuse":
            cells = [name for name in cells if name == "data"]  # the rest once these are known
        saved = flatten(self.settings)
        lines = peers.on_first(
            lambda: self.workdir.adopt(self.graph, stamps, cells, saved, on_change)
        )
        for line in lines:
            print(f"changed  {line}", flush=True)

    def _check_needs(self, left: Sequence[str]) -> None:
        """Refuses cells that need others which have not finished and will not be made."""
        missing = {need for name in left for need in self.graph.before(name)} - set(left)
        if lost := self._left([name for name in self.graph if name in missing]):
            raise UserError(
                f"{some(left)} needs {some(lost)}, which has not finished in "
                f"{self.workdir.path}; run the command without --stage, or name those too, and in "
                "config.stages."
            )
        restored = {need for name in left for need in self.graph[name].restores}
        peers.on_first(lambda: self.workdir.refuse_lost(sorted(restored - set(left))))

    def stamps(self) -> dict[str, str]:
        """What the cells' records have to say, with the tiles as they are now."""
        if not self.tiles:
            self.tiles = peers.on_first(lambda: tiles_now(self.settings, self.workdir))
        return self.graph.stamps(self.tiles)

    def run(self, on_change: str) -> None:
        """Makes the cells, then prints the report."""
        began = time.monotonic()
        self._announce()
        if not self._left(self.cells):
            if self.named:
                peers.on_first(lambda: self.workdir.refuse_lost(self.wanted))
            print(f"All is done in {self.workdir.path}.", flush=True)
        if "data" in self._left(self.cells) and not self.tiles:
            self._make_in_turn("data", wait=bool(self.share))
            self.adopt(on_change)
        if self.share:
            self._run_share()
        else:
            for name in self.cells:
                self._make_in_turn(name)
        if REPORT in self.wanted:
            if self._left([REPORT]):
                print("The report is made by the share that finishes last.", flush=True)
            else:
                _show(self.workdir)
        print(f"{time.monotonic() - began:.0f} s", flush=True)

    def _announce(self) -> None:
        devices, left = jax.devices(), self._left(self.cells)
        path, mesh = self.workdir.path, dict(self.context.mesh.shape)
        print(
            f"stedm_jax: {self.settings.name} in {path} on {len(devices)} x"
            f" {devices[0].device_kind} ({devices[0].platform}), {jax.process_count()} process(es),"
            f" mesh {mesh}",
            flush=True,
        )
        base, mine = flatten(Settings()), flatten(self.settings)
        lines = [f"config  {key} = {mine[key]}" for key in sorted(mine) if _new(key, base, mine)]
        for line in lines if self.verbose else lines[:SHOWN]:
            print(line if self.verbose else shorten(line), flush=True)
        if (more := len(lines) - SHOWN) > 0 and not self.verbose:
            print(f"config  and {more} more that differ (--verbose, or config.json)", flush=True)
        if on_grid(self.settings):
            cells = f"{len(self.cells) - len(left)} of {len(self.cells)} cells are done"
            print(f"plan: {cells}; --stage=plan lists them", flush=True)
            return
        states = [name if name in left else f"{name} (done)" for name in self.cells]
        print(f"plan: {', '.join(states)}", flush=True)

    def _make_in_turn(self, name: str, wait: bool = False) -> None:
        """Makes a cell if it is not done; `wait`: until another process has made it."""
        while self._left([name]):
            if self._try(name, PATIENCE):
                return
            if not wait:
                raise UserError(
                    f"Another run is making {name} in {self.workdir.path}; wait for it, share the "
                    "work with --cells, or give another --workdir."
                )
            self._wait_for(name)

    def _run_share(self) -> None:
        """Makes what no other process is making, until all cells of this share are done."""
        while left := self._left(self.cells):
            todo = set(left)
            ready = [name for name in left if not self.graph.before(name) & todo]
            if not any(self._try(name, 0.0) for name in ready):
                self._wait_for(ready[0])
        others = [name for name in self.graph.goals if name != REPORT]
        if REPORT in self.wanted and not self._left(others) and self._left([REPORT]):
            self._try(REPORT, 0.0)

    def _wait_for(self, name: str) -> None:
        if name != self.waiting:
            self.waiting = name
            print(f"waiting for {name}, which another process is making", flush=True)
        self._stop_if_asked(f"before {name}")
        time.sleep(PAUSE)

    def _try(self, name: str, patience: float) -> bool:
        """Makes a cell, unless another process made it meanwhile; False if one is making it."""
        with ExitStack() as stack:

            def hold() -> bool:
                try:
                    stack.enter_context(self.workdir.making(name, patience))
                except Busy:
                    return False
                return True

            if not peers.on_first(hold):
                return False
            if self._left([name]):
                self._make(name)
            return True

    def _make(self, name: str) -> None:
        """Makes a cell whose lock is held."""
        cell, stamps = self.graph[name], self.stamps()
        self._check_needs([name])
        self._stop_if_asked(f"before {name}")
        if name != "data":
            check_weights(self.settings, [self.graph[each] for each in self._left(self.cells)])
        peers.on_first(lambda: self._begin(cell, stamps))
        if cell.stage == REPORT:
            self.context.memo.clear()  # these free what only segmenters need
            self.context.programs.clear()
        stage = importlib.import_module(f"stedm_jax.stages.{cell.stage}")
        if self.learned.context.point != cell.point:
            self.learned = Learned(self.context.at(cell.point))
        stage.run(self.learned.context, cell, self.learned)
        if cell.stage == "data":  # the tiles are known only now
            self.tiles = ""
            if REPORT in self.wanted:
                peers.on_first(lambda: check_whole(self.context))

    def _begin(self, cell: Cell, stamps: dict[str, str]) -> None:
        if self.workdir.state(cell, stamps) == STALE:
            if not cell.remade:
                raise UserError(
                    f"Another run made {cell.name} in {self.workdir.path} with other settings "
                    f"({self.workdir.why_stale(cell)}). Give another --workdir."
                )
            self.workdir.forget(cell)
        self.workdir.begin(cell, stamps[cell.name])

    def _stop_if_asked(self, where: str) -> None:
        if self.context.signals.due(self.context.mesh):
            self.context.signals.end(where)

    def _left(self, names: Sequence[str]) -> list[str]:
        """Those of the cells that have not finished, or no longer hold.

        Also lets every process know what the cells left, which only process 0 reads from the disk.
        """
        stamps, workdir = self.stamps(), self.workdir

        def look() -> list[Any]:
            known = {name: workdir.result(name) for name in self.graph} if peers.several() else {}
            left = [name for name in names if workdir.state(self.graph[name], stamps) != DONE]
            return [known, left]

        workdir.known, left = peers.on_first(look)
        return left


def _new(key: str, base: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    return base.get(key) != mine[key]


def shorten(line: str, most: int = 100) -> str:
    """A line in at most so many characters."""
    return line if len(line) <= most else f"{line[: most - 3]}..."


def some(names: Sequence[str], most: int = 20) -> str:
    """The first of many names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _with_needs(graph: Graph, goals: Sequence[str]) -> list[str]:
    """Cells and what must have finished before them, in order."""
    involved = set(goals).union(*(graph.before(name) for name in goals))
    return [name for name in graph if name in involved]


def _show(workdir: Workdir) -> None:
    """Prints the last tables, and where the page is."""
    folder = workdir.path / REPORT
    if workdir.result(REPORT):
        tables = "\n\n".join(file.read_text() for file in sorted(folder.glob("table*.txt")))
        print(f"\n{tables}\n\nreport: {folder / 'index.html'}", flush=True)


def _report_damaged(context: Context) -> None:
    if context.damaged:
        names = "; ".join(sorted(context.damaged)[:20])
        print(f"{len(context.damaged)} damaged record(s) were met: {names}", flush=True)
