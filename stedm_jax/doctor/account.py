"""What a compiled program asks of one chip: memory, work, traffic, and a bound on its time.

The bound is a roofline: the longest of the three times that the products, the memory and the links
need at their peaks, as if each were alone. XLA's count of bytes accessed contains those that do not
leave the chip: where memory decides, the truth lies between the time of the products and the
roofline.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stedm_jax.common.text import table
from stedm_jax.doctor.chips import Chip
from stedm_jax.doctor.collectives import Traffic
from stedm_jax.settings.root import Settings

TIGHT = 0.92
"""Share of the memory above which a fit is a warning: other versions of the compiler need a little
more or less."""
HELD = ("parameters", "optimizer", "moving averages", "frozen", "batch")
FITS = {"PASS": "fits", "WARN": "fits, with little to spare", "FAIL": "does not fit"}


@dataclass(frozen=True)
class Request:
    """What to compile.

    Attributes:
      settings: of the experiment.
      workdir: where {workdir} points.
      topology: as "v5e:4x4".
      part: of the run, as in programs.py.
      images: that one run of the program learns from or makes, over all chips.
      cache: where what the compiler says is kept for the next time; "": nowhere.
    """

    settings: Settings
    workdir: str
    topology: str
    part: str
    images: int
    cache: str = ""

    def __str__(self) -> str:
        return f"{self.part} for {self.topology}"


@dataclass
class Account:
    """One program on one pod; bytes, FLOPs and seconds are those of a chip and a run (a step, a
    batch of images).

    Attributes:
      held: what was there before: name -> bytes, without the padding of layouts.
      traced: FLOPs of the products of the program as written, an even share, the bodies of loops
        counted once per iteration.
      arguments, temporaries, outputs, code: as the compiler allots them; outputs that reuse
        arguments are not counted.
      xla_flops, xla_bytes: XLA's own count, elementwise work and on-chip traffic included, bodies
        of loops once.
      unknown_loops: those that count once because their number of iterations is unknown.
      refused: what the compiler said when it refused.
      needed: bytes that it asked for then.
      kept: compiled at another time; compile_seconds is of then.
    """

    part: str
    topology: str
    chips: int
    mesh: dict[str, int]
    images: int
    held: dict[str, int]
    traced: float = 0.0
    arguments: float = 0.0
    temporaries: float = 0.0
    outputs: float = 0.0
    code: float = 0.0
    xla_flops: float = 0.0
    xla_bytes: float = 0.0
    traffic: dict[str, Traffic] = field(default_factory=dict)
    unknown_loops: list[str] = field(default_factory=list)
    refused: str = ""
    needed: float = 0.0
    compile_seconds: float = 0.0
    kept: bool = False

    @property
    def total(self) -> float:
        """Bytes of HBM in all."""
        return self.needed or self.arguments + self.temporaries + self.outputs + self.code

    @property
    def wire(self) -> float:
        """Bytes that a chip sends."""
        return float(sum(each.wire for each in self.traffic.values()))

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Time of the products, of the memory and of the links at their peaks.

        Bytes accessed are XLA's, scaled by how many more FLOPs there are with all iterations.
        """
        loops = max(1.0, self.traced / self.xla_flops) if self.xla_flops else 1.0
        return {
            "compute": self.traced / chip.flops,
            "memory": self.xla_bytes * loops / chip.bandwidth,
            "links": self.wire / chip.links,
        }

    def rate(self, chip: Chip) -> float:
        """Images a second at the roofline."""
        bound = max(self.seconds(chip).values())
        return self.images / bound if bound else 0.0

    def verdict(self, chip: Chip) -> str:
        """PASS, WARN (little is left) or FAIL."""
        if self.refused or self.total > chip.memory:
            return "FAIL"
        return "WARN" if self.total > TIGHT * chip.memory or self.unknown_loops else "PASS"

    def as_json(self, chip: Chip) -> dict[str, Any]:
        """Everything, with what follows from it."""
        return asdict(self) | {
            "total": self.total,
            "wire": self.wire,
            "verdict": self.verdict(chip),
            "seconds_at_peak": self.seconds(chip),
            "estimated_images_per_second": self.rate(chip),
        }


def account_lines(account: Account, chip: Chip, settings: Settings) -> list[str]:
    """The account of one program."""
    when = "at another time" if account.kept else "now"
    rows = list(_cells(account, chip).items())
    rows += [("compiled", f"{when} in {account.compile_seconds:.0f} s")]
    rows += [
        (kind, f"{each.count:.0f} times", f"{_gb(each.size)} GB whole", f"{_gb(each.wire)} GB sent")
        for kind, each in account.traffic.items()
    ]
    verdict = account.verdict(chip)
    fits = "the compiler refused" if account.refused and not account.needed else FITS[verdict]
    refused = f": {account.refused}" if account.refused else ""
    lines = ["", *table(rows).splitlines(), f"{verdict}  {fits}{refused}"]
    if account.unknown_loops:
        count = len(account.unknown_loops)
        lines += [f"loops counted once, because their number of iterations is unknown: {count}"]
    if verdict != "PASS" and account.total > 0.9 * chip.memory:
        lines += ["what makes it smaller, the cheapest first:", *remedies(account, settings)]
    return lines


def remedies(account: Account, settings: Settings) -> list[str]:
    """What makes a program that does not fit smaller, the cheapest first, in the words of the
    command line."""
    style, unet = settings.diffusion.style, settings.diffusion.unet
    trains, divided = account.part.startswith("train"), account.mesh["fsdp"]
    state = sum(size for name, size in account.held.items() if name != "batch") / 1e9
    left = state * divided / account.chips
    found = {
        "--config.diffusion.style.remat=true (style tiles in turn)": trains and not style.remat,
        "--config.diffusion.unet.remat=true (blocks are computed again)": trains and not unet.remat,
        f"--config.mesh.fsdp={account.chips} (state of {left:.2f} GB, not {state:.2f})": left
        < state,
        "fewer images a chip: a smaller batch, or --batch_per_chip": account.images > account.chips,
        "a larger pod with the same batch, or chips with more memory (v5p)": True,
    }
    return [remedy for remedy, helps in found.items() if helps]


def pod_table(done: Sequence[tuple[Account, Chip]]) -> list[str]:
    """Many programs, as a Markdown table."""
    rows = [_cells(account, chip) for account, chip in done]
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return ["", *("| " + " | ".join(row) + " |" for row in cells)]


def _cells(account: Account, chip: Chip) -> dict[str, str]:
    seconds, rate = account.seconds(chip), account.rate(chip)
    return {
        "program": account.part,
        "pod": account.topology,
        "chips": str(account.chips),
        "fsdp": str(account.mesh["fsdp"]),
        "images a chip": f"{account.images / account.chips:g}",
        **{f"{name} GB": _gb(account.held.get(name, 0)) for name in HELD},
        "temporary GB": _gb(account.temporaries),
        "results and code GB": _gb(account.outputs + account.code),
        "in all GB": _gb(account.total),
        "of HBM": f"{account.total / chip.memory:.0%}",
        "verdict": account.verdict(chip),
        "TFLOP": f"{account.traced / 1e12:.2f}",
        "GB sent": _gb(account.wire),
        **{f"{name} ms": f"{value * 1e3:.1f}" for name, value in seconds.items()},
        "images/s a chip": f"{rate / account.chips:.2f}",
        "images/s": f"{rate:.0f}",
    }


def _gb(size: float | int) -> str:
    return f"{size / 1e9:.2f}" if size >= 5e6 or not size else f"{size / 1e9:.4f}"
