"""The cores that this process may use."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Number of cores, of those that a scheduler or a container leaves to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results of some work on each item, in order; for work that releases the interpreter, such
    as numpy's."""
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, items))
