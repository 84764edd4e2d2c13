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
# What libtpu writes wherever there is no TPU.
_HARMLESS = re.compile(
    rb"[^\n]*(?:could not determine TPU accelerator type|worker hostnames)[^\n]*\n?"
)


@dataclass(frozen=True)
class Chip:
    """A chip at its peak.

    Attributes:
      name: as topologies have it.
      memory: bytes of HBM that a program may use, as the compiler says when one asks for more.
      flops: bf16 FLOP/s.
      bandwidth: bytes/s of HBM.
      links: bytes/s that it can send over all its links to other chips together (half of what is
        called bidirectional).
      shape: numbers in a topology: sides of a torus.
      slices: those that are offered; empty: the compiler knows.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    links: float
    shape: int
    slices: tuple[str, ...] = ()


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SOURCE = (
    "peaks: docs.cloud.google.com/tpu/docs/v5e, v5p, v6e (read in November 2026); usable HBM: libtpu 0.0.42.1, which "
    "keeps some of the 16, 95 and 32 GB for itself"
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
      UserError: it is none, or of a chip that is not in the table.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", text)
    chip = CHIPS.get(match[1]) if match else None
    sides = tuple(int(n) for n in match[2].split("x")) if match else ()
    if chip is None or len(sides) != chip.shape or not all(sides):
        raise UserError(
            f"--topology={text} is no topology that is known here. Give a chip of {', '.join(CHIPS)} and the sides of "
            "its torus: two for v5e and v6e (v5e:4x4, v5e:16x16), three for v5p (v5p:2x2x2, v5p:8x8x8)."
        )
    if chip.slices and match and match[2] not in chip.slices:
        raise UserError(
            f"--topology={text} is not offered; slices of {chip.name} have {', '.join(chip.slices)} chips."
        )
    return chip, sides


def check_compiler() -> None:
    """Refuses (UserError) to begin without the TPU compiler."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "There is no TPU compiler in this Python. Install the one that goes with this jax: pip install -e '.[tpu]' "
            "(it needs no TPU)."
        )


def prepare_environment() -> None:
    """What libtpu has to find before jax is imported, so that it compiles for chips that are not
    there."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Compiling touches no chip, so that several may do it at once, and beside a training on this
    # machine.
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
        said = str(error).strip().splitlines() or [type(error).__name__]
        if "lockfile" in str(error):
            hint = f"Another process holds libtpu; wait for it, or delete {LIBTPU_LOCK} if there is none."
        else:
            hint = "Choose a shape that such pods have: v5p:2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8."
        raise UserError(
            f"The TPU compiler gives no topology {text}: {said[0].rstrip('.')}. {hint}"
        ) from error


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
