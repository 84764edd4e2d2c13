"""What the bench found, as tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stedm_jax.bench.timing import Times
from stedm_jax.common.files import write_json
from stedm_jax.common.text import table

OURS = "stedm_jax"
HEAD = ("", "least s", "median s", "CPU s", "images/s", "MFU", "MFU (CPU s)", "memory", "calls")


@dataclass
class Row:
    """One contender of one part.

    Attributes:
      name: OURS or a peer.
      seconds, median: least and median wall time of a call.
      cpu_seconds: least processor time of a call; 0 where it says nothing.
      images: a second.
      mfu: share of the ceiling that the products of the network need; cpu_mfu: the same by
        processor time.
      memory: bytes at the peak, None where they are unknown.
      calls: that were measured.
    """

    name: str
    seconds: float
    median: float
    cpu_seconds: float
    images: float
    mfu: float
    cpu_mfu: float
    memory: float | None
    calls: int

    def cells(self) -> list[str]:
        """As HEAD names them."""
        cpu = self.cpu_seconds > 0
        return [
            self.name,
            f"{self.seconds:.4g}",
            f"{self.median:.4g}",
            f"{self.cpu_seconds:.4g}" if cpu else "-",
            f"{self.images:.3g}",
            f"{self.mfu:.0%}",
            f"{self.cpu_mfu:.0%}" if cpu else "-",
            "-" if self.memory is None else f"{self.memory / 1e9:.2f} GB",
            str(self.calls),
        ]


@dataclass
class Part:
    """One thing measured: its contenders, the FLOPs of a call, and what there is to say."""

    name: str
    rows: list[Row]
    flops: float
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines for a terminal."""
        lines = [f"{self.name}: {self.flops / 1e9:,.1f} GFLOP of products a call"]
        lines += table([HEAD, *(row.cells() for row in self.rows)]).splitlines()
        return "\n  ".join([*lines, *self.notes])


def row_of(
    name: str,
    times: Times,
    images: int,
    flops: float,
    ceiling: tuple[float, float],
    memory: float | None,
) -> Row:
    """A row from the times of a contender.

    Args:
      name: of the contender.
      times: of its calls.
      images: of a call.
      flops: of a call.
      ceiling: FLOP/s by wall time and by processor time; the second is 0 where that says nothing.
      memory: bytes at the peak.
    """
    wall_ceiling, cpu_ceiling = ceiling
    cpu = times.least_cpu if cpu_ceiling else 0.0
    return Row(
        name=name,
        seconds=times.least,
        median=times.median,
        cpu_seconds=cpu,
        images=images / times.least,
        mfu=flops / times.least / wall_ceiling,
        cpu_mfu=flops / cpu / cpu_ceiling if cpu else 0.0,
        memory=memory,
        calls=len(times.wall),
    )


def write_results(path: str, machine: dict[str, Any], parts: Sequence[Part]) -> None:
    """Everything as one JSON object: machine, parts."""
    write_json(Path(path), {"machine": machine, "parts": [asdict(part) for part in parts]})
