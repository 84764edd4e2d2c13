"""Bytes that the instructions of a compiled module read from the HBM and write to it, loops as
often as they turn.

A fusion reads its operands and writes its results; what passes within it does not leave the chip,
and arrays that the compiler placed on the chip (memory space 1 of a layout) do not count. An
operand is counted whole, also where only a
part is read: so this is an estimate, rather above than below.
"""

import math
import re

from stedm_jax.doctor.hlo import BYTES, Instruction, Module

_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<= ]*)\](\{[^}]*\})?")
_ON_CHIP = "S(1)"
_FREE = {
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "constant",
    "while",
    "call",
    "conditional",
    "copy-done",
    "slice-done",
    "async-done",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "optimization-barrier",
}
_PARTS = {"slice", "dynamic-slice", "slice-start", "copy-start"}


def hbm_bytes(module: Module) -> float:
    """Of one chip and one run of the module."""
    inner = {
        name
        for computation in module.computations.values()
        for each in computation.instructions.values()
        if each.opcode not in ("while", "call", "conditional")
        for name in each.called
    }
    total = 0.0
    for computation, line, times in module:
        if computation.name not in inner and line.opcode not in _FREE:
            given = (computation.instructions.get(name) for name in set(line.operands))
            total += times * _moved(line, [each for each in given if each])
    return total


def _moved(line: Instruction, operands: list[Instruction]) -> float:
    if (
        line.opcode in _PARTS
    ):  # as much as arrives is read, and written where it does not arrive on the chip
        arrays = [(size, place) for size, place in _arrays(line.shape) if size > 64] or [(0.0, "")]
        size, place = min(arrays, key=lambda each: (each[0], _ON_CHIP not in each[1]))
        return size if _ON_CHIP in place or line.opcode == "copy-start" else 2 * size
    shapes = [line.shape, *(each.shape for each in operands)]
    return sum(size for shape in shapes for size, place in _arrays(shape) if _ON_CHIP not in place)


def _arrays(shape: str) -> list[tuple[float, str]]:
    return [
        (
            float(
                BYTES.get(kind, 1) * math.prod(int(n.strip("<= ")) for n in dims.split(",") if n)
            ),
            layout,
        )
        for kind, dims, layout in _ARRAY.findall(shape)
    ]
