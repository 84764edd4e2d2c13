"""Rows as CSV text."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any


def to_csv(rows: Sequence[Mapping[str, Any]], digits: int | None = None) -> str:
    """Rows with the same keys as CSV; an undefined score is an empty field.

    Args:
      rows: column -> value.
      digits: decimal places of floats; None writes them so that they can be read back exactly.
    """
    text = io.StringIO()
    out = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    out.writeheader()
    for row in rows:
        out.writerow({name: _field(value, digits) for name, value in row.items()})
    return text.getvalue()


def _field(value: Any, digits: int | None) -> Any:
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return ""
    return value if digits is None else f"{value:.{digits}f}"
