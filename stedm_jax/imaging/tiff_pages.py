"""The chain of pages of a TIFF, followed before any library does."""

import struct
from pathlib import Path

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF, whatever its name."""
    with path.open("rb") as file:
        return file.read(4) in TIFF_STARTS


class PagesError(ValueError):
    """A chain of pages is endless or leads nowhere."""


def check_pages(path: Path, most: int, strict: bool = True) -> None:
    """Refuses a TIFF whose chain of pages is endless, which tifffile would follow for hours.

    Args:
      path: the file.
      most: pages.
      strict: refuse a chain that leads nowhere, too. Slides of Hamamatsu have longer offsets than
        their head says.

    Raises:
      PagesError: it does.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(16)
        order = "<" if start[:2] == b"II" else ">"
        large = start[2:4] in (b"+\0", b"\0+")
        count, link, entry, at = ("Q", "Q", 20, 8) if large else ("H", "I", 12, 4)
        if len(start) < at + struct.calcsize(link):
            raise PagesError("it is cut short")
        (offset,) = struct.unpack_from(order + link, start, at)
        seen: set[int] = set()
        while offset:
            if offset in seen or len(seen) >= most:
                raise PagesError(f"its pages run in a circle, or are more than {most}")
            seen.add(offset)
            file.seek(offset)
            head = file.read(struct.calcsize(count))
            entries = (
                struct.unpack(order + count, head)[0] if len(head) == struct.calcsize(count) else 0
            )
            file.seek(entries * entry, 1)
            tail = file.read(struct.calcsize(link))
            if 0 < entries < 1000 and len(tail) == struct.calcsize(link):
                (offset,) = struct.unpack(order + link, tail)
            elif strict:
                raise PagesError(f"a page of it has {entries} entries, or is cut short")
            else:
                return
