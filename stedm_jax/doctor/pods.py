"""Compiles the programs of a run for pods that are not there, and says what they would ask of a
chip."""

import math
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import AbstractMesh

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_json
from stedm_jax.doctor.account import Account, Request, account_lines, pod_table
from stedm_jax.doctor.chips import SOURCE, Chip, parse_topology
from stedm_jax.doctor.compiling import MEMORY, compile_apart
from stedm_jax.doctor.machine import available_memory
from stedm_jax.doctor.programs import named
from stedm_jax.settings.root import Settings
from stedm_jax.training.sharding import check_batch

VERDICTS = ("PASS", "WARN", "FAIL")


def examine(requests: Sequence[Request], json_file: str = "") -> int:
    """Compiles every program and prints an account of each, then tables.

    Args:
      requests: what to compile.
      json_file: where the accounts are written, as JSON; "": nowhere.

    Returns:
      0 if all fit, 1 if something is tight, 2 if something does not fit.
    """
    _check_memory()
    done: list[tuple[Account, Chip]] = []
    for request in requests:
        chip, sides = parse_topology(request.topology)
        where = f"{request.images} images on {math.prod(sides)} chips"
        what = f"{request.part} on {request.topology}, {where}"
        print(f"\ncompiling {len(done) + 1} of {len(requests)}: {what}", flush=True)
        account = compile_apart(request)
        done.append((account, chip))
        print("\n".join(account_lines(account, chip, request.settings)), flush=True)
        if json_file:
            Path(json_file).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(json_file), [each.as_json(one) for each, one in done])
    print("\n".join(pod_table(done)))
    print(f"A step's time is an estimate from peaks, not a measurement ({SOURCE}).", flush=True)
    return max(VERDICTS.index(account.verdict(chip)) for account, chip in done)


def global_batch(settings: Settings, topology: str, part: str, per_chip: int = 0) -> int:
    """Images of a run of a program on all chips of a topology.

    Args:
      settings: of the experiment.
      topology: as "v5e:4x4".
      part: of the run.
      per_chip: images of a chip; 0: the global batch of the settings.

    Raises:
      UserError: a batch that does not divide over the chips, a mesh that is not of as many.
    """
    _, sides = parse_topology(topology)
    chips, mesh = math.prod(sides), settings.mesh
    data = chips // mesh.fsdp if mesh.data == -1 else mesh.data
    if data * mesh.fsdp != chips:
        raise UserError(
            f"{topology} has {chips} chips, which mesh data {mesh.data} x fsdp {mesh.fsdp} does "
            f"not fill: leave mesh.data at -1 and set --config.mesh.fsdp to a divisor of {chips}."
        )
    kind, _, batch = named(settings, part)
    batch = per_chip * chips or batch
    try:
        check_batch(batch, AbstractMesh((chips, 1), ("data", "fsdp")))
    except UserError as error:
        key = "diffusion.train.batch" if kind == "train" else "synthesis.batch"
        raise UserError(
            f"{part} on {topology}: {error} Give it with --config.{key}=N, or --batch_per_chip=N "
            "for every topology."
        ) from error
    return batch


def _check_memory() -> None:
    try:
        free = available_memory()
    except OSError:
        return
    if free < MEMORY:
        needs = f"the compiler takes up to {MEMORY / 1e9:.0f} GB for a full-size step"
        seen = f"{free / 1e9:.1f} GB of memory are free here; {needs}"
        print(f"WARN  {seen}, and is killed where there is less", flush=True)
