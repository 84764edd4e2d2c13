"""What the makers say of their chips, and the devices of a pod that is not there."""

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stedm_jax.common.errors import UserError

LIBTPU_LOCK = "/tmp/libtpu_lockfile"
# What libtpu writes on every machine without a TPU.
_HARMLESS = re.compile(
    rb"[^\n]*(?:could not determine TPU accelerator type|worker hostnames)[^\n]*\n?"
)


@dataclass(frozen=True)
class Chip:
    """A chip at its peak.

    Attributes:
      name: as in topologies.
      memory: bytes of HBM that a program may use, as the compiler says when one asks for more.
      flops: bf16 FLOP/s.
      bandwidth: bytes/s of HBM.
      links: bytes/s that it can send over all its links to other chips together (half of the
        bidirectional figure).
      sides: how many sides a topology has.
      slices: the topologies that are offered; empty: the compiler knows.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    links: float
    sides: int
    slices: tuple[str, ...] = ()


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SOURCE = (
    "peaks: docs.cloud.google.com/tpu/docs/v5e, v5p, v6e (read in November 2026); usable HBM: "
    "libtpu 0.0.42.1, which keeps some of the 16, 95 and 32 GB for itself"
)
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 15.75 * 2**30, 197e12, 819e9, 200e9, 2, _FLAT),
        Chip("v5p", 95.74 * 2**30, 459e12, 2765e9, 600e9, 3),
        Chip("v6e", 31.25 * 2**30, 918e12, 1638e9, 400e9, 2, _FLAT),
    )
}


def parse_topology(text: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the sides of "v5e:4x4" or "v5p:4x4x4".

    Raises:
      UserError: it is not a topology, or of a chip that is not in the table.
    """
    name, _, shape = text.partition(":")
    chip, valid = CHIPS.get(name), re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape)
    if chip is None or not valid or shape.count("x") + 1 != chip.sides:
        raise UserError(
            f"--topology={text} is not a topology that is known here. Give a chip of "
            f"{', '.join(CHIPS)} and the sides of its torus: two for v5e and v6e (v5e:4x4, "
            "v5e:16x16), three for v5p (v5p:2x2x2, v5p:8x8x8)."
        )
    if chip.slices and shape not in chip.slices:
        offered = ", ".join(chip.slices)
        raise UserError(
            f"--topology={text} is not offered; slices of {chip.name} have {offered} chips."
        )
    return chip, tuple(int(side) for side in shape.split("x"))


def check_compiler() -> None:
    """Refuses (UserError) to begin without the TPU compiler."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "There is no TPU compiler in this Python. Install the one that goes with this jax: "
            "pip install -e '.[tpu]' (it needs no TPU)."
        )


def prepare_environment() -> None:
    """Sets what libtpu has to find before jax is imported, so that it compiles for chips that are
    not there."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Compiling touches no chip: several may do it at once, and beside a training on this machine.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def topology_devices(text: str) -> Sequence[Any]:
    """The devices of a topology, for a mesh to compile for; nothing can be run on them.

    Raises:
      UserError: not a topology, no libtpu, or one that refuses it.
    """
    _, sides = parse_topology(text)
    from jax.experimental import topologies

    options = {"chips_per_host_bounds": (1, 1, 1)} if max(sides) == 1 else {}
    try:
        with _quiet():
            return topologies.get_topology_desc(
                platform="tpu", topology_name=text, **options
            ).devices
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        fix = (
            "Choose a shape that such pods have: v5p:2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, "
            "4x8x8, 8x8x8."
        )
        if "lockfile" in str(error):
            fix = (
                f"Another process holds libtpu; wait for it, or delete {LIBTPU_LOCK} if there is "
                "none."
            )
        raise UserError(f"The TPU compiler gives no topology {text}: {reason}. {fix}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libtpu writes to the standard error when it finds no TPU; shows it if something
    fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, _HARMLESS.sub(b"", file.read()))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
