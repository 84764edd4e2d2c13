"""The model card: what a stranger has to know before using exported weights."""

from collections.abc import Mapping
from typing import Any

LICENSE = "not stated by whoever trained it; state it here before passing the weights on"
USE = (
    "Research on segmentation and synthesis of histology images at the resolution below. Not a "
    "medical device; not for diagnosis, and not validated for any clinical decision."
)
LIMITS = (
    "Learned from the patients counted below and no others: other organs, stains, scanners, "
    "resolutions are untested. Scores of few patients are uncertain; see the intervals of the "
    "run's report. Synthetic images may repeat training tiles."
)
STAINED = (
    " All tiles were brought to one stain (--stain_norm={} of data_prep); images have to be, "
    "before they go in."
)
PAGE = """\
# {title}

Weights of: {network}.

**License.** {licence}.

**Intended use.** {intended_use}

**Limits.** {limits}

## Data

{data}; classes: {classes}.{stain}

{counts}

## Metrics

{metrics}

## Training

{training}

## Files

{files}
"""
_PLACED = (
    *("title", "stain_norm", "licence", "intended_use", "limits", "data", "patients", "tiles"),
    *("classes", "metrics", "metrics_of", "versions"),
)
"""Keys of a card that are not listed under Training."""


def model_card(card: Mapping[str, Any], files: Mapping[str, str], network: str) -> str:
    """README.md in Markdown.

    Args:
      card: title, licence, intended_use, limits, data, patients and tiles by split, classes, mpp,
        tile, metrics, and anything else, which is listed. What is missing is said to be unknown.
      files: name -> SHA-256.
      network: what the weights are of.
    """
    patients, tiles, metrics = (card.get(name) or {} for name in ("patients", "tiles", "metrics"))
    counts = {
        split: f"{patients.get(split, 'unknown')} | {tiles.get(split, 'unknown')}"
        for split in {**patients, **tiles}
    }
    scores = {name: f"{value:.4g}" for name, value in metrics.items()}
    known = {
        name: value
        for name, value in card.items()
        if name not in _PLACED and value not in (None, "", [])
    }
    if versions := card.get("versions"):
        known["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    stain = card.get("stain_norm")
    of = f"Of {card.get('metrics_of') or 'these weights'}.\n\n"
    return PAGE.format(
        title=card.get("title") or network,
        network=network,
        licence=card.get("licence") or LICENSE,
        intended_use=card.get("intended_use") or USE,
        limits=card.get("limits") or LIMITS,
        data=card.get("data") or "unknown",
        classes=", ".join(card.get("classes") or []) or "unknown",
        stain=STAINED.format(stain) if stain else "",
        counts=_table("split | patients | tiles", counts) or "Patients: unknown.",
        metrics=of + _table("metric | value", scores) if scores else "None recorded.",
        training="\n".join(f"- {name}: {value}" for name, value in known.items()) or "Unknown.",
        files="\n".join(f"- `{name}` sha256 {digest}" for name, digest in files.items()),
    )


def _table(head: str, rows: Mapping[str, str]) -> str:
    """A table of Markdown; "" without rows."""
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns]
    lines += [f"| {name} | {cells} |" for name, cells in rows.items()]
    return "\n".join(lines) if rows else ""
