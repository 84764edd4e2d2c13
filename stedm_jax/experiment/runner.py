"""Brings up devices and workdir, says what will happen, and makes the cells one after the other."""

import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass

import jax

from stedm_jax.common.errors import UserError
from stedm_jax.common.locks import Busy
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.check import check_cells, check_weights, check_whole
from stedm_jax.experiment.context import Context, tiles_now
from stedm_jax.experiment.devices import divide_cpu, mesh_of
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.workdir import DONE, Workdir
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.root import Settings
from stedm_jax.training import peers
from stedm_jax.training.hardware import enable_compile_cache
from stedm_jax.training.signals import Signals

REPORT = "report"
PATIENCE = 3.0
"""Seconds to wait for another process to let go of a cell, as one that was killed soon does."""
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

    Raises:
      UserError: the configuration does not go with the workdir, or a stage meets something the user
        can repair.
      Stopped, KeyboardInterrupt: it was asked to stop.
    """
    with ExitStack() as stack:
        workdir.writes = peers.first()
        if not workdir.writes:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        signals = stack.enter_context(Signals(workdir.path))
        divide_cpu(settings.mesh.cpu_devices)
        context = Context(settings, workdir, mesh_of(settings), signals)
        stack.callback(_report_damaged, context)
        runner = _Runner(context, Graph(settings), wanted, share)
        runner.adopt(on_change)
        if settings.compile_cache:
            enable_compile_cache(workdir.path / ".compile_cache")
        runner.run()


class _Runner:
    def __init__(self, context: Context, graph: Graph, wanted: Sequence[str], share: Share | None):
        self.context, self.graph, self.share = context, graph, share
        self.workdir, self.settings = context.workdir, context.settings
        self.learned, self.tiles = Learned(context), ""
        self.wanted = graph.select(wanted) if wanted else list(graph)
        goals = self.wanted
        if share:
            goals = [name for name in goals if name != REPORT][share.number - 1 :: share.of]
        self.cells = _with_needs(graph, goals) if share else goals

    def adopt(self, on_change: str) -> None:
        """Checks everything before anything is deleted and before the configuration is saved."""
        stamps = self.stamps()
        done = peers.on_first(lambda: [name for name in self.cells if self.done(name, stamps)])
        check_cells(self.context, [name for name in self.cells if name not in done])
        saved, cells = flatten(self.settings), self.cells
        lines = peers.on_first(
            lambda: self.workdir.adopt(self.graph, stamps, cells, saved, on_change)
        )
        for line in lines:
            print(f"changed  {line}", flush=True)

    def stamps(self) -> dict[str, str]:
        """What the cells' records have to say, with the tiles as they are now."""
        if not self.tiles:
            self.tiles = peers.on_first(lambda: tiles_now(self.settings, self.workdir))
        return self.graph.stamps(self.tiles)

    def done(self, name: str, stamps: Mapping[str, str]) -> bool:
        """Whether a cell has finished and still holds."""
        return self.workdir.state(self.graph[name], stamps) == DONE

    def run(self) -> None:
        """Makes the cells, then prints the report."""
        began = time.monotonic()
        self._say()
        if self.share:
            self._run_share()
        else:
            self._run_in_order()
        if REPORT in self.wanted:
            _show(self.workdir)
        print(f"{time.monotonic() - began:.0f} s", flush=True)

    def _say(self) -> None:
        devices, stamps = jax.devices(), self.stamps()
        path, mesh = self.workdir.path, dict(self.context.mesh.shape)
        print(
            f"stedm_jax: {self.settings.name} in {path} on {len(devices)} x"
            f" {devices[0].device_kind} ({devices[0].platform}), {jax.process_count()} process(es),"
            f" mesh {mesh}",
            flush=True,
        )
        base, mine = flatten(Settings()), flatten(self.settings)
        for key in sorted(mine):
            if base.get(key) != mine[key]:
                print(f"config  {key} = {mine[key]}", flush=True)
        states = peers.on_first(
            lambda: [f"{name} (done)" if self.done(name, stamps) else name for name in self.cells]
        )
        print(f"plan: {', '.join(states)}", flush=True)

    def _run_in_order(self) -> None:
        left = self._left(self.cells)
        if not left:
            print(f"All is done in {self.workdir.path}.", flush=True)
        for number, name in enumerate(left):
            self._check_weights(left[number:])
            self.learned.need(*self.graph[name].needs, *self.graph[name].after)
            with self._making(name, PATIENCE):
                self._make(name)

    def _run_share(self) -> None:
        """Makes what no other process is making, until all cells of this share are done."""
        waiting = ""
        while left := self._left(self.cells):
            ready = [name for name in left if not self._left(sorted(self.graph.before(name)))]
            made = next((name for name in ready if self._try(name)), None)
            if made is None:
                if waiting != ready[0]:
                    waiting = ready[0]
                    print(f"waiting for {waiting}, which another process is making", flush=True)
                self._stop_if_asked(f"before {waiting}")
                time.sleep(PAUSE)
        if REPORT in self.wanted and not self._left([c for c in self.graph if c != REPORT]):
            self._try(REPORT)

    def _try(self, name: str) -> bool:
        """Makes a cell unless another process is making it."""
        try:
            with self._making(name, 0.0):
                if self._left([name]):
                    self._check_weights([name])
                    self._make(name)
                return True
        except _Elsewhere:
            return False

    @contextmanager
    def _making(self, name: str, patience: float) -> Iterator[None]:
        """Holds the lock of a cell on process 0.

        Raises:
          UserError: another process makes it.
        """
        with ExitStack() as stack:

            def hold() -> None:
                try:
                    stack.enter_context(self.workdir.making(name, patience))
                except Busy:
                    raise _Elsewhere(
                        f"Another run is making {name} in {self.workdir.path}; wait for it, share"
                        " the work with --cells, or give another --workdir."
                    ) from None

            peers.on_first(hold)
            yield

    def _make(self, name: str) -> None:
        cell, stamp = self.graph[name], self.stamps()[name]
        self._stop_if_asked(f"before {name}")
        peers.on_first(lambda: self.workdir.begin(cell, stamp))
        stage = importlib.import_module(f"stedm_jax.stages.{cell.stage}")
        stage.run(self.context, cell, self.learned)
        if cell.stage == "data":  # the tiles are known only now
            self.tiles = ""
            if REPORT in self.wanted:
                peers.on_first(lambda: check_whole(self.context))
        self._share_results()

    def _stop_if_asked(self, where: str) -> None:
        if self.context.signals.due(self.context.mesh):
            self.context.signals.end(where)

    def _left(self, names: Sequence[str]) -> list[str]:
        """Those of the cells that have not finished."""
        self._share_results()
        stamps = self.stamps()
        return peers.on_first(lambda: [name for name in names if not self.done(name, stamps)])

    def _share_results(self) -> None:
        """Lets every process know what the cells left, which only process 0 reads from the disk."""
        self.workdir.known = peers.on_first(
            lambda: {name: self.workdir.result(name) for name in self.graph}
        )

    def _check_weights(self, names: Sequence[str]) -> None:
        """Refuses, before hours of training, weights that a later cell could not start from."""
        if "data" not in names:
            check_weights(self.settings, [self.graph[name] for name in names])


class _Elsewhere(UserError):
    """Another process is making a cell."""


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
