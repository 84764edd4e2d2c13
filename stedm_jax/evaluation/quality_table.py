"""All sets of synthetic images side by side, each number beside what real tiles have."""

import math
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


COMPARED = {
    "Frechet distance": "frechet",
    "kernel distance (KID)": "kid",
    "  its 95 % interval": "kid_interval",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "nearest patient is the style": "style_retrieval",
    "  by chance": "style_retrieval_chance",
    "nearer to a seen patient": "nearest_is_seen",
    "ratio of distances to both": "nearest_ratio",
    "stain error": "style_error",
    "layout IoU": "layout_iou",
    "  by class": "layout_iou_by_class",
    "fine detail": "kept_detail",
    "energy of fine detail": "kept_energy",
    "features of one layout apart": "layout_diversity",
    "LPIPS of one layout": "layout_lpips",
}
"""Words -> number; that of real tiles in its place ends in _real."""
BESIDE = {
    "layout_diversity": "layout_diversity_other",
    "layout_lpips": "layout_lpips_other",
    "layout_iou_by_class": "layout_iou_real_by_class",
    "kid_interval": "kid_real_interval",
}
"""Number -> what stands in its brackets where that is not called like it."""
NOTE = (
    "Every number is against held-out patients where it compares with others. In brackets: real "
    "tiles of seen patients in place of images; of one layout: images of different layouts."
)


def compared_rows(sets: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each number of sets whose features were compared, [] where none was;
    in brackets what real tiles have."""
    sets = {name: found for name, found in sets.items() if "frechet" in found}
    if not sets:
        return []
    rows = [["against held-out patients", *sets]]
    rows.append(["images", *(str(found["n_images"]) for found in sets.values())])
    for words, key in COMPARED.items():
        beside = BESIDE.get(key, f"{key}_real")
        rows.append([words, *(_cell(found, key, beside) for found in sets.values())])
    return rows


def _cell(found: Mapping[str, Any], key: str, beside: str) -> str:
    text = _text(found.get(key))
    return f"{text} ({_text(found[beside])})" if beside in found else text


def _text(value: float | list[float] | None) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
