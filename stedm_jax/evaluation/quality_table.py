"""All sets of synthetic images side by side, each number beside what real tiles have."""

from collections.abc import Mapping
from typing import Any

COLUMNS = {
    "images": ("n_images", ""),
    "stain error": ("style_error", "style_error_real"),
    "stain slope": ("style_slope", "style_slope_real"),
    "style r": ("style_correlation", "style_correlation_real"),
    "layout IoU": ("layout_iou", "layout_iou_real"),
    "fine detail": ("kept_detail", ""),
}
"""Words -> the number of a set, and that of real tiles in its place."""
HEADER = ["set"]
for words, (_, of_real) in COLUMNS.items():
    HEADER += [words, "real"] if of_real else [words]


def quality_rows(sets: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """The lines below HEADER, one for each set; NaN for what was not measured.

    Args:
      sets: name -> the numbers of all metrics.
    """
    keys = [key for pair in COLUMNS.values() for key in pair if key]
    return [[name, *(found.get(key, float("nan")) for key in keys)] for name, found in sets.items()]
