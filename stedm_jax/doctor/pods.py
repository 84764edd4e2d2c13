"""Compiles the programs of a run for pods that are not there, and tells what they would ask of a chip."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stedm_jax.doctor.account import Account, mends, read_compiled, read_refusal
from stedm_jax.doctor.chips import SOURCE, Chip, parse_topology, topology_devices
from stedm_jax.doctor.collectives import KINDS
from stedm_jax.workdir import Workdir, write_text

PULSE = 20.0
"""Seconds between signs of life."""


def examine(
    config: Any,
    workdir: Workdir,
    topologies: Sequence[str],
    parts: Sequence[str],
    batch_per_chip: int = 0,
    json_file: str = "",
    text_folder: str = "",
) -> int:
    """Compiles every part for every topology and prints an account of each, then a table.

    Args:
      config: of the experiment.
      workdir: where {workdir} points.
      topologies: as "v5e:4x4".
      parts: of programs.PARTS.
      batch_per_chip: images a chip, in place of the global batches of the configuration; 0: those.
      json_file: where the accounts are written, as JSON; "": nowhere.
      text_folder: where the text of each compiled module is kept; "": nowhere.

    Returns:
      0 if all fit, 1 if something is tight, 2 if something does not fit.

    Raises:
      UserError: no topology, no compiler, a batch that does not divide.
    """
    chips = [parse_topology(topology)[0] for topology in topologies]
    done: list[tuple[Account, Chip]] = []
    for topology, chip in zip(topologies, chips, strict=True):
        devices = topology_devices(topology)
        for part in parts:
            account = _compile(config, workdir, topology, devices, part, batch_per_chip, text_folder)
            done.append((account, chip))
            print("\n".join(report(account, chip, config)), flush=True)
            if json_file:
                write_text(Path(json_file), json.dumps([each.as_json(its) for each, its in done], indent=1))
    print("\n" + "\n".join(table(done)))
    print(f"\nAn estimate is a bound from peaks, not a measurement ({SOURCE}).", flush=True)
    return max(("PASS", "WARN", "FAIL").index(account.verdict(chip)) for account, chip in done)


def _compile(
    config: Any, workdir: Workdir, topology: str, devices: Sequence[Any], part: str, per_chip: int, text_folder: str
) -> Account:
    import jax

    from stedm_jax.doctor.programs import prepare
    from stedm_jax.models.flops import traced_flops
    from stedm_jax.training.sharding import make_mesh

    if per_chip:
        config = config.copy_and_resolve_references()
        config.diffusion.train.batch = config.synthesis.batch = per_chip * len(devices)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices=devices)
    prepared = prepare(config, workdir, mesh, part)
    account = Account(part, topology, len(devices), dict(mesh.shape), prepared.images, prepared.held)
    began = time.monotonic()
    with _pulse(f"{part} on {topology}, {prepared.images} images, mesh {dict(mesh.shape)}"):
        with jax.set_mesh(mesh):
            traced = prepared.trace()
            account.traced = traced_flops(traced.jaxpr) / len(devices)
            lowered = traced.lower()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            read_refusal(account, error)
            compiled = None
    account.compile_seconds = time.monotonic() - began
    if compiled is not None:
        read_compiled(account, compiled)
        if text_folder:
            name = f"{topology.replace(':', '-')}-{part}-{prepared.images // len(devices)}.txt"
            Path(text_folder).mkdir(parents=True, exist_ok=True)
            write_text(Path(text_folder) / name, compiled.as_text())
    return account


@contextmanager
def _pulse(what: str, every: float = PULSE) -> Iterator[None]:
    """Says what is going on, and that it still is."""
    ended, began = threading.Event(), time.monotonic()
    print(f"compiling {what}: a full-size step takes five minutes of a quiet core, and up to 10 GB", flush=True)

    def beat() -> None:
        while not ended.wait(every):
            print(f"  still compiling after {time.monotonic() - began:.0f} s", flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def report(account: Account, chip: Chip, config: Any) -> list[str]:
    """The account of one program in lines."""
    shape = f"{account.chips} x {chip.name}, mesh data {account.mesh['data']} x fsdp {account.mesh['fsdp']}"
    images = f"{account.images} images ({account.images / account.chips:g} a chip)"
    lines = [f"\n{account.part} on {account.topology}: {shape}, {images}, {account.compile_seconds:.0f} s"]
    lines += ["  bytes of a chip"]
    lines += [f"    {name:<22}{size / 1e9:>10.3f} GB" for name, size in account.held.items()]
    if not account.refused:
        padding = account.arguments - sum(account.held.values())
        lines += [f"    {'padding':<22}{padding / 1e9:>10.3f} GB"]
        lines += [f"    {'activations':<22}{account.temporaries / 1e9:>10.3f} GB (all that is temporary)"]
        rest = account.outputs + account.code
        lines += [f"    {'results and code':<22}{rest / 1e9:>10.3f} GB"]
    share = account.total / chip.memory
    lines += [f"    {'in all':<22}{account.total / 1e9:>10.3f} GB of {chip.memory / 1e9:.3f} GB ({share:.0%})"]
    if not account.refused:
        lines += _work(account, chip)
    verdict = account.verdict(chip)
    told = {"PASS": "fits", "WARN": "fits, with little to spare", "FAIL": "does not fit"}[verdict]
    if account.refused and not account.needed:
        told = "the compiler refused"
    lines += [f"  {verdict}  {told}" + (f": {account.refused}" if account.refused else "")]
    if account.unknown_loops:
        lines += [f"  loops counted once, because it is not known how often they turn: {len(account.unknown_loops)}"]
    if verdict != "PASS" and share > 0.9:
        lines += [f"        {mend}" for mend in mends(account, chip, config)]
    return lines


def _work(account: Account, chip: Chip) -> list[str]:
    twice = account.products / account.traced if account.traced else 1.0
    lines = [
        "  work of a chip",
        f"    products as written   {account.traced / 1e12:>10.2f} TFLOP (an even share)",
        f"    products as compiled  {account.products / 1e12:>10.2f} TFLOP ({twice:.2f} of it)",
        f"    XLA's own count       {account.xla_flops / 1e12:>10.2f} TFLOP, {account.xla_bytes / 1e9:.1f} GB "
        "accessed, bodies of loops once",
        "  collectives of a chip: times, GB of whole arrays, GB sent",
    ]
    for kind in KINDS:
        if kind in account.traffic:
            each = account.traffic[kind]
            lines += [f"    {kind:<22}{each.count:>10.0f}{each.size / 1e9:>12.4f}{each.wire / 1e9:>12.4f}"]
    if not account.traffic:
        lines += ["    none"]
    seconds, bound = account.seconds(chip), account.estimate(chip)
    which = max(seconds, key=lambda name: seconds[name])
    times = ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in seconds.items())
    rate = account.images / bound if bound else 0.0
    return [
        *lines,
        f"  estimate (roofline)  {times}: at least {bound * 1e3:.1f} ms, bound by {which}; "
        f"at most {rate:.1f} images/s, {rate / account.chips:.2f} a chip",
    ]


def table(done: Sequence[tuple[Account, Chip]]) -> list[str]:
    """All accounts as a Markdown table."""
    head = ("program", "pod", "chips", "images a chip", "state GB", "temporary GB", "in all GB", "of HBM", "TFLOP",
            "sent GB", "estimate ms", "bound by", "images/s a chip", "verdict")  # fmt: skip
    rows = []
    for account, chip in done:
        seconds, bound = account.seconds(chip), account.estimate(chip)
        state = sum(size for name, size in account.held.items() if name != "batch")
        known = not account.refused
        rows.append(
            (
                account.part, account.topology, str(account.chips), f"{account.images / account.chips:g}",
                f"{state / 1e9:.2f}", f"{account.temporaries / 1e9:.2f}" if known else "-",
                f"{account.total / 1e9:.2f}", f"{account.total / chip.memory:.0%}",
                f"{account.products / 1e12:.2f}" if known else "-", f"{account.wire / 1e9:.3f}" if known else "-",
                f"{bound * 1e3:.0f}" if known else "-",
                max(seconds, key=lambda name: seconds[name]) if known else "-",
                f"{account.images / bound / account.chips:.2f}" if known and bound else "-", account.verdict(chip),
            )
        )  # fmt: skip
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]
