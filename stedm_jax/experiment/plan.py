"""Stage plan: the graph of cells, with what is done, what would run and what it costs; runs
nothing."""

from collections.abc import Iterator, Mapping, Sequence

from stedm_jax.common.errors import UserError
from stedm_jax.common.text import flops
from stedm_jax.data.schema import SPLITS, SYNTHETIC
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.check import check_cells, check_weights
from stedm_jax.experiment.context import (
    Context,
    check_classes,
    check_tiles,
    known_tiles,
    tiles_now,
)
from stedm_jax.experiment.cost import Costs, say
from stedm_jax.experiment.devices import devices, divide_cpu, mesh_of
from stedm_jax.experiment.grid_plan import print_grid
from stedm_jax.experiment.measured import hours, training_speeds
from stedm_jax.experiment.points import on_grid
from stedm_jax.experiment.workdir import ABSENT, BEGUN, DONE, STALE, Workdir
from stedm_jax.settings.root import Settings
from stedm_jax.training.sharding import make_mesh

STATES = {
    DONE: "done",
    BEGUN: "goes on",
    ABSENT: "runs",
    STALE: "is invalid (needs --on_change)",
}
SPEEDS = (1e11, 1e13, 3e14)
"""FLOP/s, for a rough idea of the hours: a small CPU, a small GPU, a large one."""


def print_plan(settings: Settings, workdir: Workdir, measure: bool = False) -> None:
    """Prints the cells in order, with state, parameters, FLOPs and hours.

    Args:
      settings: of the experiment.
      workdir: of the run, which need not be there.
      measure: train for a few seconds, and give the hours of this machine.

    Raises:
      UserError: what a run would refuse at once, except for what depends on the devices; of
        weights that are not there after the plan.
    """
    graph = Graph(settings)
    workdir.check_place()
    divide_cpu(settings.mesh.cpu_devices)
    here = _check(settings, workdir, graph.goals)
    tiles = known_tiles(settings, workdir)
    if tiles:
        check_tiles(tiles, settings)
    records = tiles.manifest["records"] if tiles else {}
    costs = Costs(settings, check_classes(tiles, settings), records)
    stamps = graph.stamps(tiles_now(settings, workdir))
    _check_stages(graph, workdir, stamps)
    print(f"{settings.name}: plan for the workdir {workdir.path}")
    states = {name: workdir.state(graph[name], stamps) for name in graph.goals}
    speeds = dict[str, float]()
    if measure:
        if here:
            raise UserError(f"--measure would train on the devices of this machine, but {here}")
        speeds = training_speeds(Context(settings, workdir, mesh_of(settings)), graph, costs)
    if on_grid(settings):
        print_grid(workdir, graph, costs, states, speeds)
    else:
        _print_cells(settings, workdir, graph, costs, states, records)
        _print_hours(graph, costs, states, speeds)
    if here:
        print(f"warning  {here}")
    # Last, because what a run costs is asked before weights are fetched.
    check_weights(settings, [graph[name] for name in graph.goals])


def _check(settings: Settings, workdir: Workdir, names: Sequence[str]) -> str:
    """What a run would refuse on the devices of this machine alone; it may run on others.

    Raises:
      UserError: what a run would refuse on any devices.
    """
    try:
        check_cells(Context(settings, workdir, mesh_of(settings)), names)
    except UserError as error:
        alone = make_mesh(devices=devices()[:1])
        check_cells(Context(settings, workdir, alone), names)
        return f"a run on the {len(devices())} devices of this machine would end with: {error}"
    return ""


def _print_cells(
    settings: Settings,
    workdir: Workdir,
    graph: Graph,
    costs: Costs,
    states: Mapping[str, str],
    records: dict[str, int],
) -> None:
    for name, state in states.items():
        cell, cost = graph[name], costs.of(graph[name])
        first, *more = say(cost)
        needs = f"; needs {', '.join(cell.needs)}" if cell.needs and name != "report" else ""
        what = "is made again" if state == STALE and cell.remade else STATES[state]
        print(f"{name:<36} {what}" + (f"; {first}" if first else "") + needs)
        if state == STALE:
            more = [workdir.why_stale(cell), *more]
        if cell.stage == "data":
            more += _data(settings, workdir, records)
        for line in more:
            print(f"{'':<36}   {line}")


def _print_hours(
    graph: Graph, costs: Costs, states: Mapping[str, str], speeds: Mapping[str, float]
) -> None:
    """The FLOPs of all cells and of those to come, and the hours at some speeds or as measured."""
    left = [name for name in states if states[name] != DONE]
    for what, names in (("in all", list(states)), ("left", left)):
        number = sum(costs.of(graph[name]).total for name in names)
        said = [f"{number / speed / 3600:,.2g} h at {speed / 1e12:g} TFLOP/s" for speed in SPEEDS]
        if speeds:
            said = [f"{sum(hours(speeds, graph[name], costs) for name in names):,.2g} h here"]
        print(f"{what:<36} {flops(number)}: {', '.join(said)}{'' if speeds else ' kept up'}")
    if speeds:
        rates = ", ".join(f"{stage} {rate / 1e9:,.3g}" for stage, rate in speeds.items())
        print(f"measured here in train steps, GFLOP/s: {rates}; the rest at the slowest of these")


def _check_stages(graph: Graph, workdir: Workdir, stamps: Mapping[str, str]) -> None:
    """Refuses cells that need others which config.stages leaves out and which are not done."""
    needed = {need for name in graph.goals for need in graph.before(name)} - set(graph.goals)
    lost = [n for n in graph if n in needed and workdir.state(graph[n], stamps) != DONE]
    if lost:
        raise UserError(
            f"The cells of this configuration need {', '.join(lost)}, which config.stages leaves "
            f"out and which have not finished in {workdir.path}; add these stages."
        )


def _data(settings: Settings, workdir: Workdir, records: dict[str, int]) -> Iterator[str]:
    """Where the tiles are, or how they are made."""
    data, place = settings.data, workdir.fill(settings.data.tiles)
    if records:
        counts = [f"{split} {records[split]}" for split in (*SPLITS, SYNTHETIC) if split in records]
        yield f"{place}: tiles {', '.join(counts)}"
    elif data.prepare:
        yield f"{place} is not there yet; it is made by"
        yield from (f"python -m {workdir.fill(command)}" for command in data.prepare)
    else:
        yield f"{place or 'config.data.tiles (which is empty)'} is not there. {data.missing}"
