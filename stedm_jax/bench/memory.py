"""The memory of arrays, and the most that a call adds to this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def tree_bytes(tree: Any) -> int:
    """Bytes of the arrays of a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def growth(call: Callable[[], None]) -> float | None:
    """By how many bytes the resident memory of this process rises at most during a call; None where
    the system does not report it.

    What the call finds and what other contenders hold does not count, so that two may be measured
    in one process.
    """
    try:
        before = _resident("VmRSS")
        _REFS.write_text("5")  # sets the high-water mark back to what is resident now (proc(5))
        call()
        return max(0.0, _resident("VmHWM") - before)
    except (OSError, StopIteration, ValueError):
        call()
        return None


def _resident(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1]) * 1024
