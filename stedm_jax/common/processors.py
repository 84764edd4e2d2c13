"""The cores that this process may use."""

import os


def cores() -> int:
    """Number of cores, of those that a scheduler or a container leaves to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
