"""What is read of a file or folder once, and kept until it changes."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
SETTLED_NS = 2 * 10**9
"""A folder that changed within the last two seconds is listed anew each time: two changes may have
the same time."""


def until_it_changes(most: int) -> Callable[[Callable[[Path], Result]], Callable[[Path], Result]]:
    """Remembers what a function of a path returns, for so many paths, until the time or the size of
    what lies there changes."""

    def remembering(function: Callable[[Path], Result]) -> Callable[[Path], Result]:
        @lru_cache(maxsize=most)
        def remembered(path: Path, changed: int, size: int) -> Result:
            return function(path)

        def current(path: Path) -> Result:
            stat = path.stat()
            return remembered(path, stat.st_mtime_ns, stat.st_size)

        return current

    return remembering


def until_a_file_comes(most: int) -> Callable[[Callable[[Path], Result]], Callable[[Path], Result]]:
    """The same for what lists a folder: anew if it is so new that a change may not show in its
    time."""

    def remembering(function: Callable[[Path], Result]) -> Callable[[Path], Result]:
        kept = until_it_changes(most)(function)

        def current(folder: Path) -> Result:
            settled = time.time_ns() - folder.stat().st_mtime_ns >= SETTLED_NS
            return kept(folder) if settled else function(folder)

        return current

    return remembering
