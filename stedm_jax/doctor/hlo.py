"""A compiled module's text as instructions, and how often each of them runs.

Only what counting collectives needs is read. A loop counts as often as it turns where that is
known: the compiler noted it, or the loop counts an integer up to a constant, as those of `lax.scan`
and `lax.fori_loop` do.
"""

import math
import re
from functools import cache
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)")
_NAME = re.compile(r"%([\w.\-]+)")
_COPIES = ("copy", "bitcast", "convert", "opt-barrier", "optimization-barrier")


class Instruction(NamedTuple):
    """One line: `name = shape opcode(given), attributes`, and the computation that it is in."""

    name: str
    shape: str
    opcode: str
    given: str
    attributes: str
    within: str

    def find(self, pattern: str) -> str:
        """The group of a pattern in the attributes, "" where it does not occur."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


class Module:
    """A compiled module.

    Args:
      text: as `compiled.as_text()` gives it.

    Attributes:
      instructions: by name, which are unique in a module.
      partitions: number of devices that it was compiled for.
      times: computation -> how often one run of the module runs it.
      unknown: names of loops that are counted once because it is not known how often they turn.
    """

    def __init__(self, text: str):
        header, *lines = text.splitlines() or [""]
        counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
        self.partitions = math.prod(map(int, counts))
        self.instructions: dict[str, Instruction] = {}
        self.unknown: list[str] = []
        self._roots: dict[str, Instruction] = {}
        entry = current = ""
        for line in lines:
            if begins := _COMPUTATION.match(line):
                current = begins[2]
                entry = current if begins[1] else entry
            elif found := _INSTRUCTION.match(line):
                root, *parts = found.groups()
                made = Instruction(*parts, within=current)
                self.instructions[made.name] = made
                if root:
                    self._roots[current] = made
        self.times = self._count(entry)

    def _count(self, entry: str) -> dict[str, float]:
        callers = {name: [] for name in self._roots}
        for line in self.instructions.values():
            turns = self._turns(line) if line.opcode == "while" else 1
            for name in _NAME.findall(line.attributes):
                if name in callers:
                    callers[name].append((line.within, turns))

        @cache
        def count(name: str) -> float:
            above = sum(count(caller) * turns for caller, turns in callers[name])
            return 1.0 if name == entry else above

        return {name: count(name) for name in callers}

    def _turns(self, loop: Instruction) -> int:
        noted = loop.find(r'"known_trip_count":\{"n":"(\d+)"\}')
        if noted:
            return int(noted)
        begin, end, step = self._range(loop)
        if begin is None or end is None:
            self.unknown.append(loop.name)
            return 1
        return max(0, math.ceil((end - begin) / step))

    def _range(self, loop: Instruction) -> tuple[int | None, int | None, int]:
        """Begin, end and step of a loop whose condition is `counter < constant`."""
        test = self._roots[loop.find(r"condition=%?([\w.\-]+)")]
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None, None, 1
        counter, limit = self._operands(test)
        index = int(counter.find(r"index=(\d+)") or 0)
        before = self._operands(self._source(self._operands(loop)[0]))
        after = self._operands(self._roots[loop.find(r"body=%?([\w.\-]+)")])
        if index >= min(len(before), len(after)):  # no tuples
            return None, None, 1
        added = map(self._integer, self._operands(after[index]))
        # One, as JAX writes it, where the compiler hid it in a fusion.
        step = next(filter(None, added), 1) if after[index].opcode == "add" else 1
        return self._integer(before[index]), self._integer(limit), step

    def _operands(self, line: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in _NAME.findall(line.given)]

    def _source(self, line: Instruction) -> Instruction:
        while line.opcode in _COPIES:
            line = self._operands(line)[0]
        return line

    def _integer(self, line: Instruction) -> int | None:
        """The value of a constant, also behind copies of it."""
        source = self._source(line)
        digits = source.opcode == "constant" and re.fullmatch(r"-?\d+", source.given)
        return int(source.given) if digits else None
