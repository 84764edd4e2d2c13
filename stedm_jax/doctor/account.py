"""What a compiled program asks of one chip: memory, work, traffic, and a bound on its time.

The bound is a roofline: the longest of the three times that the products, the memory and the links
  need at their peaks,
as if each were alone. A real step is slower; the table says which of the three decides.
"""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from stedm_jax.doctor.chips import Chip
from stedm_jax.doctor.collectives import Traffic, collectives, product_flops, traffic
from stedm_jax.doctor.hbm import hbm_bytes
from stedm_jax.doctor.hlo import Module

TIGHT = 0.92
"""Share of the memory above which a fit is a warning: other versions of the compiler need a little
more or less."""
_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30}
_OVER = re.compile(
    r"HLO temporaries \(([\d.]+)([KMG]?)\)|Used ([\d.]+)([KMG]?) of [\d.]+[KMG]? hbm"
)


@dataclass
class Account:
    """One program on one pod; bytes, FLOPs and seconds are those of a chip and a run (a step, a
    batch of images).

    Attributes:
      held: what was there before: name -> bytes, without the padding of layouts.
      arguments, temporaries, outputs, code: as the compiler allots them; outputs that reuse
        arguments are not counted.
      traced: FLOPs of the products of the program as written, shared evenly.
      products: of the compiled module, loops counted as often as they turn: more where work is done
        twice.
      hbm: bytes read from and written to the HBM, as hbm_bytes counts them.
      xla_flops, xla_bytes: XLA's own count, elementwise work and on-chip traffic included, bodies
        of loops once.
      loops: products over the same with bodies of loops counted once.
      unknown_loops: that count once because it is not known how often they turn.
      needed: bytes that the compiler asked for where it refused.
      refused: what it said then.
      kept: compiled at another time; compile_seconds is of then.
    """

    part: str
    topology: str
    chips: int
    mesh: dict[str, int]
    images: int
    held: dict[str, int]
    arguments: float = 0.0
    temporaries: float = 0.0
    outputs: float = 0.0
    code: float = 0.0
    traced: float = 0.0
    products: float = 0.0
    hbm: float = 0.0
    xla_flops: float = 0.0
    xla_bytes: float = 0.0
    loops: float = 1.0
    traffic: dict[str, Traffic] = field(default_factory=dict)
    unknown_loops: list[str] = field(default_factory=list)
    needed: float = 0.0
    refused: str = ""
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
        """Time of the products, of the memory and of the links at their peaks."""
        return {
            "compute": self.products / chip.flops,
            "memory": self.hbm / chip.bandwidth,
            "links": self.wire / chip.links,
        }

    def estimate(self, chip: Chip) -> float:
        """The roofline bound in seconds."""
        return max(self.seconds(chip).values())

    def verdict(self, chip: Chip) -> str:
        """PASS, WARN (little is left) or FAIL."""
        if self.refused or self.total > chip.memory:
            return "FAIL"
        return "WARN" if self.total > TIGHT * chip.memory or self.unknown_loops else "PASS"

    def as_json(self, chip: Chip) -> dict[str, Any]:
        """Everything, with what follows from it."""
        seconds = self.seconds(chip)
        derived = {
            "total": self.total,
            "wire": self.wire,
            "memory": chip.memory,
            "verdict": self.verdict(chip),
        }
        bound = self.estimate(chip)
        rate = self.images / bound if bound else 0.0
        return (
            asdict(self)
            | derived
            | {"seconds_at_peak": seconds, "estimated_images_per_second": rate}
        )


def facts_of(compiled: Any) -> dict[str, Any]:
    """What a compiled program tells of itself, as JSON has it."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    outputs = float(max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes))
    arguments = float(memory.argument_size_in_bytes)
    # The TPU compiler's temporaries leave buffers out that its peak, which holds arguments and
    # results, has.
    peak = float(getattr(memory, "peak_memory_in_bytes", 0))
    return {
        "arguments": arguments,
        "outputs": outputs,
        "temporaries": max(float(memory.temp_size_in_bytes), peak - arguments - outputs),
        "code": float(memory.generated_code_size_in_bytes),
        "flops": float(cost.get("flops", 0.0)),
        "bytes": float(cost.get("bytes accessed", 0.0)),
        "refused": "",
    }


def read_facts(account: Account, said: dict[str, Any], text: str) -> None:
    """Fills in what the compiler said: that of `facts_of` and the module's text, or why it
    refused."""
    account.compile_seconds = float(said.get("seconds", 0.0))
    if said["refused"]:
        read_refusal(account, said["refused"])
        return
    account.arguments, account.outputs = said["arguments"], said["outputs"]
    account.temporaries, account.code = said["temporaries"], said["code"]
    account.xla_flops, account.xla_bytes = said["flops"], said["bytes"]
    read_module(account, text)


def read_module(account: Account, text: str) -> None:
    """Fills in products and collectives from the text of a compiled module."""
    module = Module(text)
    account.traffic = traffic(collectives(module))
    account.products = product_flops(module)
    account.hbm = hbm_bytes(module)
    account.loops = account.products / (product_flops(module, loops=False) or 1.0) or 1.0
    account.unknown_loops = sorted(module.unknown)


def read_refusal(account: Account, text: str) -> None:
    """Notes what the compiler said when it refused, and how much memory it wanted."""
    account.refused = text.strip().splitlines()[0]
    found = _OVER.search(text)
    if found:
        number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
        account.needed = float(number) * _UNITS[unit]


def mends(account: Account, chip: Chip, config: Any) -> list[str]:
    """What makes a program that does not fit smaller, the cheapest first, in the words of the
    command line."""
    out, per_chip = [], account.images // account.chips
    key = "diffusion.train.batch" if account.part == "train" else "synthesis.batch"
    state = sum(
        account.held.get(name, 0)
        for name in ("parameters", "optimiser", "moving averages", "frozen")
    )
    fsdp = account.mesh["fsdp"]
    if account.part == "train":
        if not config.diffusion.style.get("remat", True):
            out.append(
                "--config.diffusion.style.remat=true (one style tile after another, computed again)"
            )
        if not config.diffusion.unet.remat:
            out.append(
                "--config.diffusion.unet.remat=true (blocks are computed again instead of kept)"
            )
    if fsdp < account.chips and state * (1 - fsdp / account.chips) > 0.05 * chip.memory:
        saved = state * (1 - fsdp / account.chips)
        out.append(
            f"--config.mesh.fsdp={account.chips} (cuts {state / 1e9:.2f} GB of state by {saved / 1e9:.2f} GB)"
        )
    if per_chip > 1:
        fewer = account.chips * (per_chip // 2)
        out.append(
            f"--config.{key}={fewer}, or --batch_per_chip={per_chip // 2} (half the images a chip)"
        )
    out.append("a larger pod with the same batch, or chips with more memory (v5p)")
    return out
