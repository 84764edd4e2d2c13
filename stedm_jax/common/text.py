"""Text tables and numbers, as commands print them."""

import difflib
from collections.abc import Iterable, Sequence

FLOP_UNITS = (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))
BYTE_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def table(rows: Sequence[Sequence[object]], words: int = 1, ruled: bool = False) -> str:
    """Rows of cells in aligned columns, two blanks apart.

    Args:
      rows: their cells, which may differ in number.
      words: how many columns are aligned at the left; the others are aligned at the right.
      ruled: whether a line is drawn below the first row.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    count = max((len(row) for row in texts), default=0)
    widths = [max((len(row[i]) for row in texts if i < len(row)), default=0) for i in range(count)]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if number < words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        return "  ".join(cells).rstrip()

    lines = [line(row) for row in texts]
    if ruled:
        lines.insert(1, "-" * (sum(widths) + 2 * (count - 1)))
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share of 1 with one digit; one that is not zero never looks like zero."""
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def flops(number: float | int) -> str:
    """A number of floating-point operations with three digits and its unit, a multiply-add being
    two."""
    return _with_unit(number, FLOP_UNITS)


def size_of(number: float | int) -> str:
    """A number of bytes with three digits and its (decimal) unit."""
    return _with_unit(number, BYTE_UNITS) if number >= 1e3 else f"{number:.0f} B"


def _with_unit(number: float | int, units: Sequence[tuple[str, float]]) -> str:
    unit, size = next(((unit, size) for unit, size in units if number >= size), units[-1])
    digits = f"{number / size:.3g}" if number < 999.5 * size else f"{number / size:,.0f}"
    return f"{digits} {unit}"


def duration(seconds: float | int) -> str:
    """Seconds as 0:18, 12:05 or 3:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint at the known key that is most like another one, if any is."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
