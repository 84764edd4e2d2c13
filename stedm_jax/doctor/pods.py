"""Compiles the programs of a run for pods that are not there, and tells what they would ask of a
chip."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.doctor.account import Account
from stedm_jax.doctor.chips import SOURCE, Chip, parse_topology
from stedm_jax.doctor.compiling import MEMORY, Request, compile_apart
from stedm_jax.doctor.machine import available_memory
from stedm_jax.doctor.tables import constancy, memory_table, report, work_table
from stedm_jax.training.sharding import check_batch
from stedm_jax.workdir import Workdir, write_text


def examine(
    config: Any,
    workdir: Workdir,
    topologies: Sequence[str],
    parts: Sequence[str],
    batch_per_chip: int = 0,
    json_file: str = "",
    text_folder: str = "",
    cache: str = "",
) -> int:
    """Compiles every part for every topology and prints an account of each, then tables.

    Args:
      config: of the experiment.
      workdir: where {workdir} points.
      topologies: as "v5e:4x4".
      parts: of programs.PARTS.
      batch_per_chip: images a chip, in place of the global batches of the configuration; 0: those.
      json_file: where the accounts are written, as JSON; "": nowhere.
      text_folder: where the text of each compiled module is kept; "": nowhere.
      cache: where what the compiler says is kept, so that the same program need not be compiled
        again; "": nowhere.

    Returns:
      0 if all fit, 1 if something is tight, 2 if something does not fit.

    Raises:
      UserError: no topology, no compiler, a batch that does not divide (before anything is
        compiled).
    """
    configs = [
        (topology, sized(config, topology, parts, batch_per_chip)) for topology in topologies
    ]
    _room_for_the_compiler()
    done: list[tuple[Account, Chip]] = []
    total = len(configs) * len(parts)
    for topology, its in configs:
        chip, sides = parse_topology(topology)
        for part in parts:
            images = its.diffusion.train.batch if part == "train" else its.synthesis.batch
            where = f"{part} on {topology}, {images} images on {math.prod(sides)} chips"
            print(f"\ncompiling {len(done) + 1} of {total}: {where}", flush=True)
            account = compile_apart(
                Request(its, str(workdir.path), topology, part, text_folder, cache)
            )
            done.append((account, chip))
            print("\n".join(report(account, chip, its)), flush=True)
            if json_file:
                Path(json_file).parent.mkdir(parents=True, exist_ok=True)
                write_text(
                    Path(json_file), json.dumps([each.as_json(one) for each, one in done], indent=1)
                )
    for table in (memory_table(done), work_table(done), constancy(done)):
        print("\n" + "\n".join(table) if table else "")
    print(f"A step's time is a bound from peaks, not a measurement ({SOURCE}).", flush=True)
    return max(("PASS", "WARN", "FAIL").index(account.verdict(chip)) for account, chip in done)


def sized(config: Any, topology: str, parts: Sequence[str], batch_per_chip: int = 0) -> Any:
    """The configuration with the batches of this topology.

    Raises:
      UserError: a batch that does not divide over its chips, a mesh that is not of as many.
    """
    from jax.sharding import AbstractMesh

    _, sides = parse_topology(topology)
    chips, shape = math.prod(sides), config.mesh
    cuts = shape.fsdp * (1 if shape.data == -1 else shape.data)
    if shape.fsdp < 1 or chips % cuts or (shape.data != -1 and cuts != chips):
        valid = [n for n in range(1, chips + 1) if chips % n == 0]
        raise UserError(
            f"{topology} has {chips} chips, which mesh data {shape.data} x fsdp {shape.fsdp} does not fill: leave "
            f"mesh.data at -1 and set --config.mesh.fsdp to one of {valid}."
        )
    config = config.copy_and_resolve_references()
    if batch_per_chip:
        config.diffusion.train.batch = config.synthesis.batch = batch_per_chip * chips
    batches = {
        "train": ("diffusion.train", config.diffusion.train),
        "sampler": ("synthesis", config.synthesis),
    }
    for part in parts:
        key, section = batches[part]
        try:
            check_batch(section.batch, AbstractMesh((chips, 1), ("data", "fsdp")))
        except UserError as error:
            raise UserError(
                f"{part} on {topology}: {error} Give it with --config.{key}.batch=N, or --batch_per_chip=N for every "
                "topology."
            ) from error
    return config


def _room_for_the_compiler() -> None:
    try:
        free = available_memory()
    except OSError:
        return
    if free < MEMORY:
        print(
            f"WARN  {free / 1e9:.1f} GB of memory are free here; the compiler takes up to {MEMORY / 1e9:.0f} GB for a "
            "full-size step, and is killed where there is less",
            flush=True,
        )
