"""Checks of what a configuration names: tiles, weights, batches, and the processes that are to
train together."""

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import is_remote, read_manifest
from stedm_jax.data.schema import check_disjoint
from stedm_jax.doctor.findings import Finding, fail, ok, warn
from stedm_jax.stages.initial import source_folder, split_entry
from stedm_jax.stages.run import check_classes, check_tiles
from stedm_jax.workdir import Workdir

STARTS = ("autoencoder", "diffusion", "segmentation")


def data(config: Any, workdir: Workdir) -> Iterator[Finding]:
    """The tile set: there, whole, of the right size, with the splits and classes wanted, no patient
    in two splits."""
    settings = config.data
    place = workdir.fill(settings.tiles)
    if is_remote(place):
        records = read_manifest(place)["records"]
        counts = ", ".join(f"{split} {count:,}" for split, count in records.items())
        yield ok("data", f"{place}: {counts}; fetched and verified when a run begins")
        return
    path = Path(place)
    if not place or not (path / "manifest.json").exists():
        if settings.prepare:
            yield ok(
                "data",
                f"{path} is not there yet; the run makes it ({len(settings.prepare)} commands)",
            )
        else:
            where = settings.missing or "python -m data_prep.slides or data_prep.folder makes one"
            yield fail(
                "data",
                f"there is no tile set in {place or 'config.data.tiles, which is empty'}",
                where,
            )
        return
    tiles = TileSet.open(path)
    check_tiles(tiles, settings)
    counts = ", ".join(f"{split} {len(tiles.index(split)):,}" for split in tiles.splits)
    yield ok("data", f"{path}: {tiles.tile} px at {tiles.mpp:g} um/px; {counts}")
    classes = check_classes(tiles, config)
    yield ok("classes", ", ".join(classes.names))
    check_disjoint(
        {split: tiles.patients(split) for split in tiles.splits if split != "synthetic"}, f"{path}"
    )
    patients = ", ".join(f"{split} {len(tiles.patients(split))}" for split in tiles.splits)
    yield ok("patients", f"no one in two splits; {patients}")
    lacking = [
        split
        for split in ("train", "val", "test", config.synthesis.styles)
        if not tiles.index(split)
    ]
    if lacking:
        yield fail(
            "splits",
            f"no tile of {', '.join(lacking)}",
            "add patients of that split and pack the tiles again",
        )
    tiles.verify()
    yield ok("checksums", "every shard and the index are as they were written")


def weights(config: Any) -> Iterator[Finding]:
    """Weights to start from, of the stages that this configuration runs."""
    wanted = [
        (stage, split_entry(entry)[1], f"{stage}.init_from")
        for stage in STARTS
        if stage in config.stages
        for entry in config[stage].init_from
    ]
    wanted += [
        (stage, source, key)
        for stage, source, key in (
            ("autoencoder", config.autoencoder.lpips, "autoencoder.lpips"),
            ("diffusion", config.diffusion.style.weights, "diffusion.style.weights"),
        )
        if source and stage in config.stages
    ]
    if not wanted:
        yield ok("weights", "none are needed: everything starts fresh")
    for _, source, key in wanted:
        try:
            yield ok("weights", f"{key}: {source_folder(source, key)}")
        except UserError as error:
            yield fail("weights", str(error), "as it says")


def batches(config: Any) -> Iterator[Finding]:
    """The mesh and the global batches against the devices that there are."""
    from stedm_jax.training.sharding import check_batch, make_mesh

    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    wrong = False
    for key in ("autoencoder.train", "diffusion.train", "segmentation.train", "synthesis"):
        stage, _, section = key.partition(".")
        if stage not in config.stages:
            continue
        batch = (config[stage][section] if section else config[stage]).batch
        try:
            check_batch(batch, mesh)
        except UserError as error:
            wrong = True
            yield fail(
                "batch", f"{key}.batch: {error}", f"--config.{key}.batch=N with one of these"
            )
    seen = f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
    yield ok("mesh", seen if wrong else f"{seen}; every batch divides over it")


def processes(env: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """What the environment says of processes that train together: all of it or none, and numbers
    that fit."""
    env = os.environ if env is None else env
    coordinator, count, number = (
        env.get(f"STEDM_{name}", "") for name in ("COORDINATOR", "PROCESSES", "PROCESS_ID")
    )
    sources = []
    if coordinator or count not in ("", "1") or number not in ("", "0"):
        sources.append("STEDM_COORDINATOR")
        yield from _coordinator(coordinator, count, number)
    tasks = env.get("SLURM_NTASKS", "1")
    if "SLURM_STEP_NODELIST" in env and tasks.isdigit() and int(tasks) > 1:
        sources.append("SLURM")
        yield from _numbered("SLURM_PROCID", env.get("SLURM_PROCID", ""), int(tasks))
    elif (
        "SLURM_JOB_ID" in env
        and "SLURM_STEP_NODELIST" not in env
        and tasks.isdigit()
        and int(tasks) > 1
    ):
        yield warn(
            "processes",
            f"SLURM gave {tasks} tasks, but this is not started by srun",
            "srun python -m ...",
        )
    named = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES", "")
    hosts = [name for name in named.split(",") if name]
    if len(hosts) > 1:
        sources.append("TPU_WORKER_HOSTNAMES")
        yield from _numbered("TPU_WORKER_ID", env.get("TPU_WORKER_ID", ""), len(hosts))
    if len(sources) > 1:
        seen = f"{' and '.join(sources)} both say who trains together; {sources[0]} is taken"
        yield warn("processes", seen, f"unset {' and '.join(sources[1:])}, or the former")
    if not sources:
        yield ok("processes", "one, on its own")


def _coordinator(address: str, count: str, number: str) -> Iterator[Finding]:
    mend = "set STEDM_COORDINATOR=HOST:PORT, STEDM_PROCESSES=N and STEDM_PROCESS_ID=0 ... N-1, all three"
    host, _, port = address.rpartition(":")
    if not address or not count or not number:
        yield fail(
            "processes",
            f"STEDM_COORDINATOR='{address}', PROCESSES='{count}', PROCESS_ID='{number}'",
            mend,
        )
        return
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        yield fail("processes", f"STEDM_COORDINATOR='{address}' is no HOST:PORT", mend)
        return
    if not count.isdigit() or int(count) < 1:
        yield fail("processes", f"STEDM_PROCESSES='{count}' is no number of processes", mend)
        return
    yield from _numbered("STEDM_PROCESS_ID", number, int(count))
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        seen = f"the name of the coordinator, {host}, is not known here ({error.strerror})"
        yield warn("processes", seen, "give its address, or a name that every host resolves")


def _numbered(name: str, number: str, count: int) -> Iterator[Finding]:
    if not number.isdigit() or int(number) >= count:
        yield fail(
            "processes",
            f"{name}='{number}' of {count}",
            f"{name} has to be 0 ... {count - 1}, once each",
        )
    else:
        yield ok("processes", f"number {number} of {count}")
