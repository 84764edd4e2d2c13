"""What a compiled module sends between chips, by kind of collective.

With n chips in a group and S bytes of the whole array (what all-reduce and all-gather give, what
reduce-scatter takes, what a chip gives to all-to-all or permute), a chip of a ring sends

    all-reduce  2 (n - 1) / n S      all-gather, reduce-scatter, all-to-all  (n - 1) / n S
    permute  S

A collective that the compiler split into a start, steps beside computation and a done is counted
once.
"""

import math
import re
from dataclasses import dataclass

from stedm_jax.doctor.hlo import Instruction, Module

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OTHERS = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "collective-permute"}
_ARRAY = re.compile(r"([a-z]+(\d*)[a-z0-9]*)\[([0-9,<= ]*)\]")
_GROUPS = re.compile(
    r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]<=|mesh\[([^\]]*)\][^{]*\{([^}]*)\})"
)


@dataclass
class Traffic:
    """All collectives of a kind: operations, bytes S and bytes that a chip sends, of one run."""

    count: float = 0.0
    size: float = 0.0
    wire: float = 0.0


def traffic(module: Module) -> dict[str, Traffic]:
    """Kind -> what a run of the module sends; kinds that do not occur are left out."""
    sums = {kind: Traffic() for kind in KINDS}
    seen = set()
    for computation, line, times in module.runs():
        opcode = line.opcode.removesuffix("-start")
        kind = _OTHERS.get(opcode, opcode)
        if kind not in KINDS:
            continue
        size, group = _size(line), group_size(line, module.partitions)
        # On TPU a reduce-scatter is a fusion of an all-reduce and the slice that is kept.
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        elif kind == "reduce-scatter":
            size *= group
        same = (kind, line.find(r"channel_id=(\d+)") or line.name, times)
        if same in seen:
            continue
        seen.add(same)
        share = (group - 1) / group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
        sums[kind].count += times
        sums[kind].size += times * size
        sums[kind].wire += times * size * factor
    return {kind: each for kind, each in sums.items() if each.count}


def _size(line: Instruction) -> float:
    """Bytes of the results; those of a start are a tuple of what was given and of what comes."""
    sizes = [
        (int(bits) / 8 if bits else kind == "pred") * math.prod(map(int, re.findall(r"\d+", dims)))
        for kind, bits, dims in _ARRAY.findall(line.shape)
    ]
    if line.opcode == "all-gather-start" and len(sizes) > 1:
        sizes = sizes[1 : 1 + len(sizes) // 2]
    elif line.opcode == "collective-permute-start":
        sizes = sizes[1:2] or sizes
    return sum(sizes)


def group_size(line: Instruction, devices: int) -> int:
    """Chips that take part together in a collective.

    The groups are written {{0,1},{2,3}}, or [groups,size]<=[...], or mesh['a'=4,'b'=2] {'a'}; {}
    are all.
    """
    match = _GROUPS.search(line.attributes)
    if "source_target_pairs=" in line.attributes or match is None:
        return devices
    members, size, mesh, chosen = match.groups()
    if members:
        return members.count(",") + 1
    if size:
        return int(size)
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", chosen)
    return math.prod(int(part or sizes.get(name, 1)) for name, part in axes)
