"""Checks of what a configuration names: tiles, networks and weights, and the processes that are to
train together."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import is_remote
from stedm_jax.data.schema import check_disjoint
from stedm_jax.doctor.findings import Finding, fail, ok, warn
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.check import check_cells, check_weights
from stedm_jax.experiment.context import (
    Context,
    check_classes,
    check_tiles,
    known_tiles,
    tiles_now,
)
from stedm_jax.experiment.devices import mesh_of
from stedm_jax.experiment.workdir import DONE, Workdir
from stedm_jax.settings.root import Settings


def data(settings: Settings, workdir: Workdir) -> Iterator[Finding]:
    """The tile set: there, whole, of the right size, with the splits and classes wanted, no patient
    in two splits."""
    place = workdir.fill(settings.data.tiles)
    known = known_tiles(settings, workdir)
    if known is None and settings.data.prepare:
        commands = f"({len(settings.data.prepare)} commands)"
        yield ok(f"{place} is not there yet; the run makes it {commands}")
    elif known is None:
        seen = f"there is no tile set in {place or 'config.data.tiles, which is empty'}"
        fix = settings.data.missing or "python -m data_prep.slides or data_prep.folder makes one"
        yield fail(seen, fix)
    elif is_remote(place):
        counts = ", ".join(f"{split} {n:,}" for split, n in known.manifest["records"].items())
        yield ok(f"{place}: {counts}; fetched and verified when a run begins")
    else:
        yield from _local_tiles(settings, TileSet.open(Path(place)))


def _local_tiles(settings: Settings, tiles: TileSet) -> Iterator[Finding]:
    check_tiles(tiles, settings)
    counts = ", ".join(f"{split} {len(tiles.index(split)):,}" for split in tiles.splits)
    yield ok(f"{tiles.path}: {tiles.tile} px at {tiles.mpp:g} um/px; {counts}")
    yield ok(", ".join(check_classes(tiles, settings).names), name="classes")
    patients = {split: tiles.patients(split) for split in tiles.splits}
    real = {split: names for split, names in patients.items() if split != "synthetic"}
    check_disjoint(real, f"{tiles.path}")
    counts = ", ".join(f"{split} {len(names)}" for split, names in patients.items())
    yield ok(f"no one in two splits; {counts}", name="patients")
    wanted = ("train", "val", "test", settings.synthesis.styles)
    empty = [split for split in wanted if not tiles.index(split)]
    if empty:
        fix = "add patients of that split and pack the tiles again"
        yield fail(f"no tile of {', '.join(empty)}", fix, "splits")
    tiles.verify()
    yield ok("every shard and the index are as they were written", name="checksums")


def cells(settings: Settings, workdir: Workdir) -> Iterator[Finding]:
    """What the run itself checks before its first cell: networks, batches, weights to start
    from."""
    context = Context(settings, workdir, mesh_of(settings))
    graph, refused = Graph(settings), dict[str, str]()
    names = graph.goals
    for name in names:
        try:
            check_cells(context, [name])
            check_weights(settings, [graph[name]])
        except UserError as error:
            refused.setdefault(str(error), name)
    for text, name in refused.items():
        yield fail(f"{name}: {text}")
    if not refused:
        mesh = context.mesh.shape
        on = f"mesh data {mesh['data']} x fsdp {mesh['fsdp']}"
        yield ok(f"{len(names)} can be made, on {on}: networks, batches and weights go together")


def made_before(settings: Settings, workdir: Workdir) -> Finding:
    """The workdir: no folder of something else, and nothing that this configuration invalidates."""
    workdir.check_place()
    graph = Graph(settings)
    stamps = graph.stamps(tiles_now(settings, workdir))
    workdir.refuse_stale(graph, stamps, graph.goals)
    done = sum(workdir.state(graph[name], stamps) == DONE for name in graph.goals)
    return ok(f"{done} of {len(graph.goals)} cells are done in {workdir.path}, none is invalid")


def processes(env: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """What the environment says of processes that train together: all of it or none, and numbers
    that fit."""
    groups: dict[str, tuple[str, str]] = {}  # who says so -> variable of the number, count
    address, count = env.get("STEDM_COORDINATOR", ""), env.get("STEDM_PROCESSES", "")
    if address or count not in ("", "1") or env.get("STEDM_PROCESS_ID", "") not in ("", "0"):
        groups["STEDM_COORDINATOR"] = "STEDM_PROCESS_ID", count
    tasks = env.get("SLURM_NTASKS", "1")
    if tasks != "1" and "SLURM_STEP_NODELIST" in env:
        groups["SLURM"] = "SLURM_PROCID", tasks
    elif tasks != "1" and "SLURM_JOB_ID" in env:
        yield warn(f"SLURM gave {tasks} tasks, but this is not started by srun", "srun python ...")
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts:
        groups["TPU_WORKER_HOSTNAMES"] = "TPU_WORKER_ID", str(len(hosts.split(",")))
    for source, (variable, count) in groups.items():
        number, host = env.get(variable, ""), re.fullmatch(r"\[?(.+?)\]?:\d{1,5}", address)
        if source == "STEDM_COORDINATOR" and host is None:
            fix = "set STEDM_COORDINATOR, STEDM_PROCESSES=N and STEDM_PROCESS_ID=0 ... N-1"
            yield fail(f"STEDM_COORDINATOR='{address}' is not HOST:PORT", fix)
        elif not (number.isdigit() and count.isdigit() and int(number) < int(count)):
            seen = f"{variable}='{number}' of '{count}' processes"
            yield fail(seen, "give each process a number from 0 to N-1 and all the same N")
        else:
            yield ok(f"number {number} of {count}")
        if source == "STEDM_COORDINATOR" and host and not _known(host[1]):
            seen = f"the name of the coordinator, {host[1]}, is not known here"
            yield warn(seen, "give its address, or a name that every host resolves")
    if len(groups) > 1:
        used, *others = groups
        seen = f"{' and '.join(groups)} all say who trains together; {used} is taken"
        yield warn(seen, f"unset {' and '.join(others)}, or {used}")
    if not groups:
        yield ok("one, on its own")


def _known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False
