"""Accounts of compiled programs as text: one in full, many as tables."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from stedm_jax.doctor.account import Account, mends
from stedm_jax.doctor.chips import Chip
from stedm_jax.doctor.collectives import KINDS

Done = Sequence[tuple[Account, Chip]]
HELD = ("parameters", "optimiser", "moving averages", "frozen", "batch")


def report(account: Account, chip: Chip, config: Any) -> list[str]:
    """The account of one program in lines."""
    shape = f"{account.chips} x {chip.name}, mesh data {account.mesh['data']} x fsdp {account.mesh['fsdp']}"
    images = f"{account.images} images ({account.images / account.chips:g} a chip)"
    when = "at another time" if account.kept else "now"
    seconds = f"compiled {when} in {account.compile_seconds:.0f} s"
    lines = [f"\n{account.part} on {account.topology}: {shape}, {images}, {seconds}"]
    lines += ["  bytes of a chip"]
    lines += [f"    {name:<22}{size / 1e9:>10.3f} GB" for name, size in account.held.items()]
    if not account.refused:
        padding = account.arguments - sum(account.held.values())
        lines += [f"    {'padding, less unread':<22}{padding / 1e9:>10.3f} GB"]
        lines += [
            f"    {'activations':<22}{account.temporaries / 1e9:>10.3f} GB (all that is temporary)"
        ]
        rest = account.outputs + account.code
        lines += [f"    {'results and code':<22}{rest / 1e9:>10.3f} GB"]
    share = account.total / chip.memory
    if account.total:
        lines += [
            f"    {'in all':<22}{account.total / 1e9:>10.3f} GB of {chip.memory / 1e9:.3f} GB ({share:.0%})"
        ]
    if not account.refused:
        lines += _work(account, chip)
    verdict = account.verdict(chip)
    told = {"PASS": "fits", "WARN": "fits, with little to spare", "FAIL": "does not fit"}[verdict]
    if account.refused and not account.needed:
        told = "the compiler refused"
    lines += [f"  {verdict}  {told}" + (f": {account.refused}" if account.refused else "")]
    if account.unknown_loops:
        lines += [
            f"  loops counted once, because it is not known how often they turn: {len(account.unknown_loops)}"
        ]
    if verdict != "PASS" and share > 0.9:
        lines += ["        what makes it smaller, the cheapest first:"]
        lines += [f"        {mend}" for mend in mends(account, chip, config)]
    return lines


def _work(account: Account, chip: Chip) -> list[str]:
    twice = account.products / account.traced if account.traced else 1.0
    lines = [
        "  work of a chip",
        f"    products as written   {account.traced / 1e12:>10.2f} TFLOP (an even share)",
        f"    products as compiled  {account.products / 1e12:>10.2f} TFLOP ({twice:.2f} of it)",
        f"    HBM read and written  {account.hbm / 1e9:>10.2f} GB",
        f"    XLA's own count       {account.xla_flops / 1e12:>10.2f} TFLOP, {account.xla_bytes / 1e9:.1f} GB "
        "accessed, bodies of loops once",
        "  collectives of a chip: times, GB of whole arrays, GB sent",
    ]
    for kind in KINDS:
        if kind in account.traffic:
            each = account.traffic[kind]
            lines += [
                f"    {kind:<22}{each.count:>10.0f}{each.size / 1e9:>12.4f}{each.wire / 1e9:>12.4f}"
            ]
    if not account.traffic:
        lines += ["    none"]
    seconds, bound = account.seconds(chip), account.estimate(chip)
    times = ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in seconds.items())
    rate = account.images / bound if bound else 0.0
    return [
        *lines,
        f"  estimate (roofline)  {times}: at least {bound * 1e3:.1f} ms, bound by {bound_by(account, chip)}; "
        f"at most {rate:.1f} images/s, {rate / account.chips:.2f} a chip",
    ]


def bound_by(account: Account, chip: Chip) -> str:
    """Which of compute, memory and links takes the longest."""
    seconds = account.seconds(chip)
    return max(seconds, key=lambda name: seconds[name])


def memory_table(done: Done) -> list[str]:
    """GB of one chip by what they are for, as a Markdown table."""
    head = (
        "program",
        "pod",
        "chips",
        "fsdp",
        "images a chip",
        *HELD,
        "temporary",
        "in all",
        "of HBM",
        "verdict",
    )
    rows = []
    for account, chip in done:
        rows.append(
            (
                *_who(account),
                *(_gb(account.held[name]) if name in account.held else "-" for name in HELD),
                "-" if account.refused else _gb(account.temporaries),
                _gb(account.total),
                f"{account.total / chip.memory:.0%}",
                account.verdict(chip),
            )
        )
    return _markdown(head, rows)


def work_table(done: Done) -> list[str]:
    """Work, traffic and the bound on time, as a Markdown table; GB sent by kind of collective."""
    kinds = [kind for kind in KINDS if any(kind in account.traffic for account, _ in done)]
    sent = [f"{kind} GB sent" for kind in kinds]
    head = (
        "program",
        "pod",
        "chips",
        "fsdp",
        "images a chip",
        "TFLOP",
        "TFLOP as written",
        "HBM GB",
        *sent,
        "products ms",
        "roofline ms",
        "bound by",
        "links ms",
        "images/s a chip",
        "images/s",
    )
    rows = []
    for account, chip in done:
        bound = account.estimate(chip)
        if account.refused or not bound:
            rows.append((*_who(account), *["-"] * (len(head) - 5)))
            continue
        wires = (account.traffic[kind].wire if kind in account.traffic else 0.0 for kind in kinds)
        rate, seconds = account.images / bound, account.seconds(chip)
        rows.append(
            (
                *_who(account),
                f"{account.products / 1e12:.2f}",
                f"{account.traced / 1e12:.2f}",
                f"{account.hbm / 1e9:.0f}",
                *map(_gb, wires),
                f"{seconds['compute'] * 1e3:.0f}",
                f"{bound * 1e3:.0f}",
                bound_by(account, chip),
                f"{seconds['links'] * 1e3:.1f}",
                f"{rate / account.chips:.2f}",
                f"{rate:.0f}",
            )
        )
    return _markdown(head, rows)


def constancy(done: Done) -> list[str]:
    """How the work of a chip changes while the pod grows and nothing else does; a line a program
    and kind of chip."""

    def alike(one: tuple[Account, Chip]) -> tuple[str, str, float, int]:
        account, chip = one
        return account.part, chip.name, account.images / account.chips, account.mesh["fsdp"]

    lines = []
    kept = sorted(
        (one for one in done if not one[0].refused), key=lambda one: (alike(one), one[0].chips)
    )
    for (part, name, images, fsdp), group in groupby(kept, key=alike):
        accounts = [account for account, _ in group]
        if len(accounts) < 2:
            continue
        what = ", ".join(
            f"{label} {_range(accounts, value)}"
            for label, value in (
                ("products", lambda each: each.products),
                ("temporaries", lambda each: each.temporaries),
                ("sent", lambda each: each.wire),
            )
        )
        pods = f"{accounts[0].chips} to {accounts[-1].chips} chips of {name}"
        lines.append(f"{part}, {images:g} images a chip, fsdp {fsdp}, {pods}: a chip's {what}")
    return lines


def _range(accounts: Sequence[Account], value: Callable[[Account], float]) -> str:
    first = value(accounts[0])
    if not first:
        return "+0.0 %" if not any(map(value, accounts)) else "from nothing"
    changes = [100 * (value(each) / first - 1) for each in accounts[1:]]
    low, high = min(changes), max(changes)
    return f"{high:+.1f} %" if f"{low:.1f}" == f"{high:.1f}" else f"{low:+.1f} to {high:+.1f} %"


def _who(account: Account) -> tuple[str, ...]:
    images = f"{account.images / account.chips:g}"
    return account.part, account.topology, str(account.chips), str(account.mesh["fsdp"]), images


def _gb(size: float | int) -> str:
    return f"{size / 1e9:.2f}" if size >= 5e6 or not size else f"{size / 1e9:.4f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
