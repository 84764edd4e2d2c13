"""The plan of a grid: a row for all points of a cell, and the hours that they take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stedm_jax.common.text import table
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.cost import Costs
from stedm_jax.experiment.workdir import DONE, STALE, Workdir

SPEED = 1e11
"""FLOP/s of a small CPU, where nothing was measured yet."""
HEADER = ("cells", "done", "of", "invalid", "hours in all", "hours left")


@dataclass(frozen=True)
class Row:
    """All cells that differ in their point or seed alone.

    Attributes:
      name: without these.
      flops: of one of them.
      seconds: that those made so far took, by cell.
      cells: how many there are. stale: how many would be made again.
    """

    name: str
    flops: float
    seconds: Sequence[float]
    cells: int
    stale: int

    def each(self, speed: float, speeds: Mapping[str, float]) -> float:
        """Hours of one: from its FLOPs at the speed of its stage, else as those that are done took,
        else from its FLOPs at `speed`."""
        stage = self.name.partition("/")[0]
        if not self.seconds or (self.flops and stage in speeds):
            return self.flops / speeds.get(stage, speed) / 3600
        return sum(self.seconds) / len(self.seconds) / 3600


def print_grid(
    workdir: Workdir,
    graph: Graph,
    costs: Costs,
    states: Mapping[str, str],
    speeds: Mapping[str, float],
) -> None:
    """Prints a row for each name of a cell, and the sum of their hours.

    Args:
      workdir: where the cells are made.
      graph: of the experiment.
      costs: of its cells.
      states: of the goals, by name.
      speeds: FLOP/s by stage, where they were measured on this machine just now.
    """
    groups: dict[str, list[str]] = {}
    for name in states:
        groups.setdefault(graph[name].row, []).append(name)
    rows = [_row(workdir, graph, costs, states, *group) for group in groups.items()]
    speed = min(speeds.values()) if speeds else measured_speed(rows)
    lines = []
    for row in rows:
        done = len(row.seconds)
        hours = [_hours(row.each(speed, speeds) * count) for count in (row.cells, row.cells - done)]
        lines.append([row.name, done, row.cells, row.stale or "", *hours])
    total = sum(row.each(speed, speeds) * row.cells for row in rows)
    left = sum(row.each(speed, speeds) * (row.cells - len(row.seconds)) for row in rows)
    cells, done = sum(row.cells for row in rows), sum(len(row.seconds) for row in rows)
    lines.append(["in all", done, cells, "", _hours(total), _hours(left)])
    print(table([HEADER, *lines], ruled=True))
    timed = any(row.seconds and row.flops for row in rows)
    how = "as those that are done" if timed else "as a small CPU"
    if speeds:
        how = "the slowest of the measured stages"
        rates = ", ".join(f"{stage} {rate / 1e9:,.3g}" for stage, rate in speeds.items())
        print(f"measured here in train steps, GFLOP/s: {rates}")
    print(f"hours as measured; where no such cell is done, at {speed / 1e9:.3g} GFLOP/s, {how}")


def measured_speed(rows: Sequence[Row]) -> float:
    """FLOP/s of the cells that are done; SPEED where there is none."""
    timed = [row for row in rows if row.seconds and row.flops]
    seconds = sum(sum(row.seconds) for row in timed)
    return sum(row.flops * len(row.seconds) for row in timed) / seconds if seconds else SPEED


def _row(
    workdir: Workdir,
    graph: Graph,
    costs: Costs,
    states: Mapping[str, str],
    row: str,
    names: Sequence[str],
) -> Row:
    seconds = [_seconds(workdir, name) for name in names if states[name] == DONE]
    stale = sum(states[name] == STALE for name in names)
    return Row(row, costs.of(graph[names[0]]).total, seconds, len(names), stale)


def _seconds(workdir: Workdir, name: str) -> float:
    return float((workdir.result(name) or {}).get("seconds", 0.0))


def _hours(hours: float) -> str:
    return f"{hours:,.2f}"
