"""Timing that a shared machine disturbs little: contenders take turns, and the least of their times
is kept.

    A, B, C, A, B, C, ...       so that whatever else the machine does meets all of them alike

Beside the wall clock stands the time of the processor, summed over the threads of this process.
Other programs on the same cores leave it nearly alone; on the other hand it does not see cores that
stand idle, and counts threads that wait by spinning. Where the work is done on an accelerator it
says nothing, and is not looked at.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Clock = Callable[[], float]
MIN_ROUNDS = 3


@dataclass
class Times:
    """Seconds of each call of one contender: by the wall clock and, summed over threads, of the
    processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def least(self) -> float:
        """Least wall time of a call, in seconds."""
        return min(self.wall)

    @property
    def median(self) -> float:
        """Median wall time of a call, in seconds."""
        return statistics.median(self.wall)

    @property
    def least_cpu(self) -> float:
        """Least processor time of a call, in seconds."""
        return min(self.cpu)


def alternate(
    contenders: Mapping[str, Callable[[], None]],
    seconds: float,
    *,
    rounds: int = MIN_ROUNDS,
    clock: Clock = time.perf_counter,
    cpu_clock: Clock = time.process_time,
) -> dict[str, Times]:
    """Calls all contenders in turn until the time is up.

    Args:
      contenders: by name; a call returns when its work is done. Each is called once before,
        unmeasured.
      seconds: a round begins only while this much is not used up, the unmeasured calls apart.
      rounds: that are made in any case.
      clock, cpu_clock: for tests.

    Returns:
      Their times, as many of each.
    """
    for call in contenders.values():
        call()
    times = {name: Times() for name in contenders}
    started, done = clock(), 0
    while done < rounds or clock() - started < seconds:
        for name, call in contenders.items():
            wall, cpu = clock(), cpu_clock()
            call()
            times[name].wall.append(clock() - wall)
            times[name].cpu.append(cpu_clock() - cpu)
        done += 1
    return times
