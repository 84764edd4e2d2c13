"""What a compiled module sends between chips, by kind, and the products that it computes.

With n chips in a group and S bytes of the whole array (what all-reduce and all-gather give, what
reduce-scatter takes, what a chip gives to all-to-all or permute), a chip of a ring sends

    all-reduce  2 (n - 1) / n S      all-gather, reduce-scatter, all-to-all  (n - 1) / n S
    permute  S

A collective that the compiler split into a start, steps beside computation and a done is counted
once.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

from stedm_jax.doctor.hlo import Computation, Instruction, Module

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPCODES = {
    **{kind: kind for kind in KINDS},
    **{f"{kind}-start": kind for kind in KINDS},
    "ragged-all-to-all": "all-to-all",
    "collective-broadcast": "collective-permute",
}
_STEPS = ("stride", "rhs_dilate", "lhs_dilate")


@dataclass(frozen=True)
class Collective:
    """One collective: group is its number of chips, size S above, wire what a chip sends, times how
    often it runs."""

    kind: str
    group: int
    size: float
    wire: float
    times: float


@dataclass(frozen=True)
class Traffic:
    """All collectives of a kind: operations, bytes S and bytes that a chip sends, of one run."""

    count: float = 0.0
    size: float = 0.0
    wire: float = 0.0


def collectives(module: Module) -> list[Collective]:
    """Every collective that a run of the module makes."""
    found: dict[object, Collective] = {}
    for computation, instruction, times in module:
        kind = _OPCODES.get(instruction.opcode)
        if kind is None:
            continue
        each = _account(kind, computation, instruction, times, module.partitions)
        channel = instruction.attribute("channel_id")
        found[(each.kind, channel, times) if channel else instruction.name] = each
    return list(found.values())


def traffic(found: list[Collective]) -> dict[str, Traffic]:
    """Kind -> sums; kinds that do not occur are left out."""
    sums: dict[str, Traffic] = defaultdict(Traffic)
    for each in found:
        old = sums[each.kind]
        size, wire = old.size + each.times * each.size, old.wire + each.times * each.wire
        sums[each.kind] = Traffic(old.count + each.times, size, wire)
    return {kind: sums[kind] for kind in KINDS if kind in sums}


def _account(
    kind: str, computation: Computation, line: Instruction, times: float, devices: int
) -> Collective:
    group, sizes = group_size(line, devices), line.sizes
    if (
        line.opcode.endswith("-start")
        and kind in ("all-gather", "collective-permute")
        and len(sizes) > 1
    ):
        sizes = sizes[1 : 1 + max(1, (len(sizes)) // 2)] if kind == "all-gather" else sizes[1:2]
    size = sum(sizes)
    # On TPU a reduce-scatter is a fusion of an all-reduce and the slice that is kept.
    if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    elif kind == "reduce-scatter":
        size *= group
    share = (group - 1) / group
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    return Collective(kind, group, size, factor * size, times)


def group_size(line: Instruction, devices: int) -> int:
    """Chips that take part together in a collective.

    The groups are written {{0,1},{2,3}}, or [groups,size]<=[...], or mesh['a'=4,'b'=2] {'a'}; {}
    are all.
    """
    if "source_target_pairs=" in line.attributes:
        return devices
    match = re.search(
        r"replica_groups=(\{\{[\d,]*\}|\[\d+,\d+\]<=|mesh\[[^\]]*\][^{]*\{[^}]*\}|\{\})",
        line.attributes,
    )
    if not match or match[1] == "{}":
        return devices
    text = match[1]
    if text.startswith("mesh"):
        sizes = {
            name: int(size)
            for name, size in re.findall(r"'([^']+)'=(\d+)", text[: text.index("]")])
        }
        chosen = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", text[text.rindex("{") :])
        return math.prod(int(part) if part else sizes.get(name, 1) for name, part in chosen)
    if text.startswith("["):
        return int(text[1:].split("]")[0].split(",")[1])
    return len([number for number in text.strip("{}").split(",") if number])


def product_flops(module: Module, loops: bool = True) -> float:
    """FLOPs of the convolutions and matrix products of one chip; a multiplication with its addition
    is two.

    What falls on padding, or into holes of a stretched input, does not count. Without `loops` the
    body of a loop counts once, as XLA's own count has it.
    """
    total = 0.0
    for computation, line, times in module:
        if line.opcode in ("convolution", "dot"):
            total += _product(computation, line) * (times if loops else 1.0)
    return total


def _product(computation: Computation, line: Instruction) -> float:
    out = math.prod(line.arrays[0][1])
    given = [computation.instructions.get(name) for name in line.operands]
    if line.opcode == "dot":
        left = given[0]
        axes = [int(n) for n in re.findall(r"\d+", line.attribute("lhs_contracting_dims"))]
        inner = math.prod(left.arrays[0][1][axis] for axis in axes) if left else 1
        return 2.0 * out * inner
    image, kernel, labels = (
        given[0],
        given[1],
        re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes),
    )
    if image is None or kernel is None or labels is None:
        return 0.0
    shape = kernel.arrays[0][1]
    groups = re.search(r"batch_group_count=(\d+)", line.attributes)
    whole = (
        2.0
        * out
        * math.prod(shape)
        / shape[labels[2].index("o")]
        / (int(groups[1]) if groups else 1)
    )
    return whole * _hits(line, labels, (image.arrays[0][1], shape, line.arrays[0][1]))


def _hits(line: Instruction, labels: re.Match[str], shapes: tuple[tuple[int, ...], ...]) -> float:
    """Share of a convolution's products that fall on its input, and not on padding or into holes
    (lhs_dilate).

    The TPU compiler writes many products of matrices as one convolution: with a window as large as
      their number, of
    which all places but one are holes, or padding.
    """
    words = line.attribute("window").strip("{}").split()
    given = {name: value.split("x") for name, value in (word.split("=", 1) for word in words)}
    share = 1.0
    for axis in range(len(given.get("size", ()))):
        length, size, out = (
            shape[names.index(str(axis))]
            for shape, names in zip(shapes, labels.groups(), strict=True)
        )
        stride, apart, holes = (int(given[name][axis]) if name in given else 1 for name in _STEPS)
        before = int(given["pad"][axis].split("_")[0]) if "pad" in given else 0
        last = (length - 1) * holes
        places = (n * stride - before + tap * apart for n in range(out) for tap in range(size))
        share *= sum(0 <= place <= last and place % holes == 0 for place in places) / (out * size)
    return share
