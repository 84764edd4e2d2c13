"""What the bench found, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stedm_jax.bench.timing import Times

OURS = "stedm_jax"


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
      memory: bytes at the peak, None where they are not told.
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


@dataclass
class Part:
    """One thing measured: its contenders, how well they agree, and what there is to say."""

    name: str
    rows: list[Row]
    flops: float
    errors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Speed of ours over that of the fastest peer, by least wall time."""
        return self._ratio("seconds")

    @property
    def cpu_ratio(self) -> float | None:
        """As `ratio`, by processor time; None where it says nothing."""
        return self._ratio("cpu_seconds")

    def _ratio(self, what: str) -> float | None:
        ours = [getattr(row, what) for row in self.rows if row.name == OURS]
        peers = [getattr(row, what) for row in self.rows if row.name != OURS]
        return min(peers) / ours[0] if ours and peers and min(*peers, ours[0]) > 0 else None

    def text(self) -> str:
        """A few lines for a terminal."""
        lines = [f"{self.name}: {self.flops / 1e9:,.1f} GFLOP of products a call"]
        head = (
            "",
            "least s",
            "median s",
            "CPU s",
            "images/s",
            "MFU",
            "MFU (CPU s)",
            "memory",
            "calls",
        )
        lines.append(_line(head))
        for row in self.rows:
            memory = "-" if row.memory is None else f"{row.memory / 1e9:.2f} GB"
            by_cpu = (
                (f"{row.cpu_seconds:.4g}", f"{row.cpu_mfu:.0%}") if row.cpu_seconds else ("-", "-")
            )
            lines.append(
                _line(
                    (
                        row.name,
                        f"{row.seconds:.4g}",
                        f"{row.median:.4g}",
                        by_cpu[0],
                        f"{row.images:.3g}",
                        f"{row.mfu:.0%}",
                        by_cpu[1],
                        memory,
                        str(row.calls),
                    )
                )
            )
        if self.ratio is not None:
            by_cpu = f", {self.cpu_ratio:.2f} by processor time" if self.cpu_ratio else ""
            lines.append(
                f"  {OURS} runs at {self.ratio:.2f} times the speed of the fastest peer{by_cpu}"
            )
        lines += [
            f"  largest difference in {name}: {error:.1e}" for name, error in self.errors.items()
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def row_of(
    name: str,
    times: Times,
    images: int,
    flops: float,
    ceiling: float,
    cpu_ceiling: float,
    memory: float | None,
) -> Row:
    """A row from the times of a contender; `cpu_ceiling` 0 where processor time says nothing."""
    cpu = times.least_cpu if cpu_ceiling else 0.0
    by_cpu = flops / cpu / cpu_ceiling if cpu and cpu_ceiling else 0.0
    return Row(
        name,
        times.least,
        times.median,
        cpu,
        images / times.least,
        flops / times.least / ceiling,
        by_cpu,
        memory,
        len(times.wall),
    )


def write_json(
    path: str, machine: dict[str, Any], parts: Sequence[Part], loader: dict[str, Any]
) -> None:
    """Everything as one JSON object: machine, parts, loader."""
    told = [asdict(part) | {"ratio": part.ratio, "cpu_ratio": part.cpu_ratio} for part in parts]
    text = json.dumps({"machine": machine, "parts": told, "loader": loader}, indent=2) + "\n"
    Path(path).write_text(text)


def _line(cells: Sequence[str]) -> str:
    return f"  {cells[0]:<18}" + "".join(f"{cell:>12}" for cell in cells[1:])


def loader_text(found: dict[str, Any]) -> str:
    """The speeds of the loader against what the step eats."""
    lines = [
        f"loader, tiles of {found['side']} px, {found['styles']} style tiles an image, this process alone:"
    ]
    wanted = found["wanted"]
    for name, speed in found["speeds"].items():
        against = f", {speed['images'] / wanted:.3g} times what the step eats" if wanted else ""
        lines.append(
            f"  {name:<26} {speed['tiles']:8.1f} tiles/s {speed['images']:8.2f} images/s{against}"
        )
    return "\n".join(lines)
