"""A compiled module's text as computations and instructions, and how often each computation is run.

Only what accounting needs is read: shapes, opcodes, operands, the computations that an instruction
  calls. Loops count
as often as they turn, where that is known: the compiler noted it, or the loop counts an integer up
  to a constant, as
those of `lax.scan` and `lax.fori_loop` do.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

BYTES = {
    "pred": 1,
    "s2": 0.25,
    "u2": 0.25,
    "s4": 0.5,
    "u4": 0.5,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
    "bf16": 2,
    "f16": 2,
    "f32": 4,
    "f64": 8,
    "c64": 8,
    "c128": 16,
    "token": 0,
    "opaque": 0,
}
_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<= ]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_CALL_LISTS = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """(element type, dimensions) of each array of the result."""
        found = _ARRAY.findall(self.shape)
        return [
            (kind, tuple(int(n.strip("<= ")) for n in dims.split(",") if n)) for kind, dims in found
        ]

    @property
    def sizes(self) -> list[float]:
        """Bytes of each array of the result, without the padding of its layout."""
        return [float(BYTES.get(kind, 1) * math.prod(dims)) for kind, dims in self.arrays]

    def attribute(self, name: str) -> str:
        """What follows `name=`, up to the next comma outside of it; "" if there is none."""
        match = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        return self.attributes[match.end() :].split(", ")[0] if match else ""

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        lists = [
            name.strip(" %")
            for names in _CALL_LISTS.findall(self.attributes)
            for name in names.split(",")
        ]
        return _CALLS.findall(self.attributes) + [name for name in lists if name]


@dataclass
class Computation:
    """Instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction | None:
        """What it gives."""
        return next((each for each in self.instructions.values() if each.root), None)


class Module:
    """A compiled module.

    Args:
      text: as `compiled.as_text()` gives it.

    Attributes:
      partitions: number of devices that it was compiled for.
      unknown: names of loops that are counted once because it is not known how often they turn.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry, self.unknown = "", set[str]()
        header = text[: text.find("\n")]
        counts = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)]
        self.partitions = math.prod(counts)
        current = None
        for line in text.splitlines():
            if current is None:
                head = _HEAD.match(line)
                if head:
                    current = self.computations.setdefault(head[2], Computation(head[2]))
                    self.entry = head[2] if head[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif instruction := _parse(line):
                current.instructions[instruction.name] = instruction

    def __iter__(self) -> Iterator[tuple[Computation, Instruction, float]]:
        """Every instruction of the computations that are run, with how often."""
        for name, computation in self.computations.items():
            times = self.times.get(name, 0.0)
            if times:
                for instruction in computation.instructions.values():
                    yield computation, instruction, times

    @cached_property
    def times(self) -> dict[str, float]:
        """Computation -> how often one run of the module runs it."""
        edges: dict[str, list[tuple[str, float]]] = {}  # callee -> callers
        for name, computation in self.computations.items():
            for instruction in computation.instructions.values():
                turns = (
                    self._turns(computation, instruction) if instruction.opcode == "while" else 1.0
                )
                for callee in instruction.called:
                    edges.setdefault(callee, []).append((name, turns))
        known = {self.entry: 1.0}

        def count(name: str) -> float:
            if name not in known:
                known[name] = 0.0  # until it is known; there are no cycles
                known[name] = sum(count(caller) * turns for caller, turns in edges.get(name, ()))
            return known[name]

        return {name: count(name) for name in self.computations}

    def _turns(self, computation: Computation, loop: Instruction) -> float:
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        turns = int(noted[1]) if noted else self._counted(computation, loop)
        if turns is None:
            self.unknown.add(loop.name)
        return 1.0 if turns is None else float(turns)

    def _counted(self, computation: Computation, loop: Instruction) -> int | None:
        """Turns of a loop that counts up to a constant."""
        condition = self.computations.get(loop.attribute("condition").lstrip("%"))
        found = condition and self._comparison(condition)
        if not condition or not found:
            return None
        left, right = (condition.instructions.get(name) for name in found)
        limit = _constant(right)
        if left is None or limit is None or left.opcode != "get-tuple-element":
            return None
        index = int(left.attribute("index"))
        begin = _constant(_source(computation, loop.operands[0], index))
        body = self.computations.get(loop.attribute("body").lstrip("%"))
        step = self._step(body, index) if body else 1
        return None if begin is None else max(0, math.ceil((limit - begin) / step))

    def _comparison(self, condition: Computation) -> tuple[str, str] | None:
        """The two sides of `a < b` that a condition consists of, also where it was fused."""
        root = condition.root
        if root is None:
            return None
        if root.opcode == "fusion":
            inner = self.computations.get(root.called[0])
            compare = inner.root if inner else None
            if inner is None or compare is None or compare.opcode != "compare":
                return None
            numbers = [inner.instructions.get(name) for name in compare.operands]
            if any(each is None or each.opcode != "parameter" for each in numbers):
                return None
            sides = [root.operands[int(each.operands[0])] for each in numbers if each]
        else:
            compare, sides = root, list(root.operands)
        if compare.opcode != "compare" or compare.attribute("direction") != "LT" or len(sides) != 2:
            return None
        return sides[0], sides[1]

    def _step(self, body: Computation, index: int) -> int:
        """By how much a turn counts; 1, as JAX writes it, where the compiler hid it in a fusion."""
        out = body.root
        added = (
            body.instructions.get(out.operands[index]) if out and out.opcode == "tuple" else None
        )
        if added is None or added.opcode != "add":
            return 1
        constants = [_constant(body.instructions.get(name)) for name in added.operands]
        return next((value for value in constants if value), 1)


def _parse(line: str) -> Instruction | None:
    name = _NAME.match(line)
    if not name:
        return None
    rest = line[name.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.find("(")
    if opening < 0:
        return None
    closing = _closing(rest, opening)
    inside = re.sub(r"/\*.*?\*/", "", rest[opening + 1 : closing])
    opcode = rest[:opening]
    operands = (
        (inside,)
        if opcode in ("constant", "parameter")
        else tuple(re.findall(r"%([\w.\-]+)", inside))
    )
    return Instruction(
        name[2], shape, opcode, operands, rest[closing + 1 :].lstrip(", "), bool(name[1])
    )


def _closing(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return len(text) - 1


def _constant(instruction: Instruction | None) -> int | None:
    if (
        instruction is None
        or instruction.opcode != "constant"
        or not instruction.operands[0].lstrip("-").isdigit()
    ):
        return None
    return int(instruction.operands[0])


def _source(computation: Computation, name: str, index: int) -> Instruction | None:
    """What stands at a place of a tuple, behind copies of it."""
    made = computation.instructions.get(name)
    while made is not None and made.opcode in ("copy", "optimization-barrier"):
        made = computation.instructions.get(made.operands[0])
    if made is None or made.opcode != "tuple":
        return None
    found = computation.instructions.get(made.operands[index])
    while found is not None and found.opcode in ("copy", "bitcast", "convert"):
        found = computation.instructions.get(found.operands[0])
    return found
