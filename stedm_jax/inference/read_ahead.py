"""Reading on threads while the network works, and how the time was spent."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from stedm_jax.training.progress import Progress

Job = TypeVar("Job")
Done = TypeVar("Done")

AHEAD = 4
"""Batches that are read ahead of the network, and most threads that read."""
INTERVAL = 10.0
"""Seconds between two lines about an image, where the output is no terminal."""


def read_ahead(
    make: Callable[[Job], Done], jobs: Iterable[Job], ahead: int = AHEAD, threads: int = 0
) -> Iterator[Done]:
    """The results of jobs in their order; threads work at some jobs ahead.

    Args:
      make: what a thread does with a job; what it raises is raised in its turn.
      jobs: taken one by one, as results are.
      ahead: jobs that are worked at, or done, before they are asked for.
      threads: that work; 0: one a processor, and AHEAD at most.
    """
    left = iter(jobs)
    with ThreadPoolExecutor(threads or min(AHEAD, os.cpu_count() or 1)) as pool:
        begun = deque(pool.submit(make, job) for job in islice(left, ahead))
        try:
            while begun:
                done = begun.popleft().result()
                begun.extend(pool.submit(make, job) for job in islice(left, 1))
                yield done
        finally:
            for each in begun:
                each.cancel()


class Clock:
    """How the time of an image is spent, and a status line about it.

    Args:
      label: of the status line; "": there is none.
      batch: patches of a batch.

    Attributes:
      waited: seconds in which the network waited for pixels.
      batches: how many were asked for.
    """

    def __init__(self, label: str = "", batch: int = 1) -> None:
        self._label, self._batch = label, batch
        self.waited, self.batches = 0.0, 0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the clock was made."""
        return time.perf_counter() - self._began

    def waits(self, items: Iterable[Done], count: int) -> Iterator[Done]:
        """`count` items, with the time until each is there."""
        line = Progress(self._label, count, self._batch, INTERVAL) if self._label else None
        left = iter(items)
        for _ in range(count):
            began = time.perf_counter()
            item = next(left)
            waited = time.perf_counter() - began
            self.waited, self.batches = self.waited + waited, self.batches + 1
            if line:
                line.advance(self.batches, waited=waited)
            yield item
