"""A compiled module's text as instructions, and how often each of them runs.

Only what counting collectives needs is read. The body of a loop counts once for each iteration,
where their number is known: the compiler noted it, or the loop counts an integer up to a constant,
as those of `lax.scan` and `lax.fori_loop` do.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)")
_NAME = re.compile(r"%([\w.\-]+)")
_COPIES = ("copy", "bitcast", "convert", "opt-barrier", "optimization-barrier")


class Instruction(NamedTuple):
    """One line: `name = shape opcode(given), attributes`."""

    root: str | None
    name: str
    shape: str
    opcode: str
    given: str
    attributes: str

    def find(self, pattern: str) -> str:
        """The group of a pattern in the attributes, "" where it does not occur."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


class Module:
    """A compiled module.

    Args:
      text: as `compiled.as_text()` gives it.

    Attributes:
      partitions: number of devices that it was compiled for.
      unknown: names of loops that count once because their number of iterations is unknown.
    """

    def __init__(self, text: str):
        header, *lines = text.splitlines() or [""]
        counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
        self.partitions = math.prod(map(int, counts))
        self.unknown: list[str] = []
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = current = ""
        for line in lines:
            if begins := _COMPUTATION.match(line):
                current = begins[2]
                self._entry = current if begins[1] else self._entry
                self._computations[current] = []
            elif found := _INSTRUCTION.match(line):
                self._computations[current].append(Instruction(*found.groups()))
        # Names are unique in a module.
        self._lines = {line.name: line for each in self._computations.values() for line in each}

    def runs(self, computation: str = "", times: int = 1) -> Iterator[tuple[str, Instruction, int]]:
        """Every instruction of a computation (the whole module by default) and of those that it
        calls: the computation that it is in, the instruction, and how often it runs."""
        computation = computation or self._entry
        for line in self._computations[computation]:
            yield computation, line, times
            iterations = self._iterations(line) if line.opcode == "while" else 1
            for name in _NAME.findall(line.attributes):
                if name in self._computations:
                    yield from self.runs(name, times * iterations)

    def _iterations(self, loop: Instruction) -> int:
        noted = loop.find(r'"known_trip_count":\{"n":"(\d+)"\}')
        try:
            return int(noted) if noted else self._counted(loop)
        except (LookupError, ValueError):
            self.unknown.append(loop.name)
            return 1

    def _counted(self, loop: Instruction) -> int:
        """Iterations of a loop whose condition is `counter < constant`; an error if it is not."""
        test = self._root(loop.find(r"condition=%?([\w.\-]+)"))
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            raise ValueError(test.name)
        counter, limit = self._operands(test)
        index = int(counter.find(r"index=(\d+)"))
        begin = self._operands(self._source(self._operands(loop)[0]))[index]
        after = self._operands(self._root(loop.find(r"body=%?([\w.\-]+)")))[index]
        # One, as JAX writes it, where the compiler hid it in a fusion.
        step = self._integer(self._operands(after)[-1]) if after.opcode == "add" else 1
        return max(0, math.ceil((self._integer(limit) - self._integer(begin)) / step))

    def _root(self, computation: str) -> Instruction:
        return next(line for line in self._computations[computation] if line.root)

    def _operands(self, line: Instruction) -> list[Instruction]:
        return [self._lines[name] for name in _NAME.findall(line.given)]

    def _source(self, line: Instruction) -> Instruction:
        """The instruction that copies were made of."""
        while line.opcode in _COPIES:
            line = self._operands(line)[0]
        return line

    def _integer(self, line: Instruction) -> int:
        """The value of a constant; a ValueError for anything else."""
        source = self._source(line)
        return int(source.given if source.opcode == "constant" else "")
