"""The model card: what a stranger has to know before using exported weights."""

from collections.abc import Mapping
from typing import Any

LICENCE = "not stated by whoever trained it; state it here before passing the weights on"
USE = (
    "Research on segmentation and synthesis of histology images at the resolution below. Not a medical device; not "
    "for diagnosis, and not validated for any clinical decision."
)
LIMITS = (
    "Learnt from the patients counted below and no others: other organs, stains, scanners, resolutions are untested. "
    "Scores of few patients are uncertain; see the intervals of the run's report. Synthetic images may repeat "
    "training tiles."
)
STAINED = "All tiles were brought to one stain (--stain_norm={} of data_prep); images have to be, before they go in."

_PLACED = (
    "title",
    "stain_norm",
    "licence",
    "intended_use",
    "limits",
    "data",
    "patients",
    "tiles",
    "classes",
    "metrics",
    "metrics_of",
    "versions",
)


def model_card(card: Mapping[str, Any], files: Mapping[str, str], network: str) -> str:
    """README.md in Markdown.

    Args:
      card: title, licence, intended_use, limits, data, patients and tiles by split, classes, mpp,
        tile, metrics, and anything else, which is listed. What is missing is said to be unknown.
      files: name -> SHA-256.
      network: what the weights are of.
    """
    splits = {**dict.fromkeys(card.get("patients") or {}), **dict.fromkeys(card.get("tiles") or {})}
    patients, tiles, metrics = (card.get(name) or {} for name in ("patients", "tiles", "metrics"))
    rows = [
        f"| {each} | {patients.get(each, 'unknown')} | {tiles.get(each, 'unknown')} |"
        for each in splits
    ]
    scores = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    others = [
        f"- {name}: {value}"
        for name, value in card.items()
        if name not in _PLACED and value not in (None, "", [])
    ]
    versions = ", ".join(
        f"{name} {version}" for name, version in (card.get("versions") or {}).items()
    )
    lines = [
        f"# {card.get('title') or network}",
        "",
        f"Weights of: {network}.",
        "",
        f"**Licence.** {card.get('licence') or LICENCE}.",
        "",
        f"**Intended use.** {card.get('intended_use') or USE}",
        "",
        f"**Limits.** {card.get('limits') or LIMITS}",
        "",
        "## Data",
        "",
        f"{card.get('data') or 'unknown'}; classes: {', '.join(card.get('classes') or []) or 'unknown'}."
        + (f" {STAINED.format(card['stain_norm'])}" if card.get("stain_norm") else ""),
        "",
        *(
            ["| split | patients | tiles |", "|---|---|---|", *rows, ""]
            if rows
            else ["Patients: unknown.", ""]
        ),
        "## Metrics",
        "",
        *(
            [
                f"Of {card.get('metrics_of') or 'these weights'}.",
                "",
                "| metric | value |",
                "|---|---|",
                *scores,
                "",
            ]
            if scores
            else ["None recorded.", ""]
        ),
        "## Training",
        "",
        *(others or ["Unknown."]),
        *([f"- versions: {versions}"] if versions else []),
        "",
        "## Files",
        "",
        *(f"- `{name}` sha256 {digest}" for name, digest in files.items()),
    ]
    return "\n".join(lines) + "\n"
