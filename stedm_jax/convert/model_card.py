"""The model card: what a stranger has to know before using exported weights."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader

PLACED = (
    *(
        "title",
        "use",
        "stain_norm",
        "licence",
        "intended_use",
        "limits",
        "data",
        "patients",
        "tiles",
    ),
    *("classes", "metrics", "metrics_of", "versions"),
)
"""Keys of a card that templates/model_card.md places; others are listed under Training."""


def model_card(card: Mapping[str, Any], files: Mapping[str, str], network: str) -> str:
    """README.md in Markdown.

    Args:
      card: title, licence, intended_use, limits, data, patients and tiles by split, classes, mpp,
        tile, metrics, and anything else, which is listed. What is missing is said to be unknown.
      files: name -> SHA-256.
      network: what the weights are of.
    """
    patients, tiles = card.get("patients") or {}, card.get("tiles") or {}
    others = {
        name: value
        for name, value in card.items()
        if name not in PLACED and value not in (None, "", [])
    }
    environment = Environment(
        loader=PackageLoader("stedm_jax.convert"), trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("model_card.md").render(
        {**card, "patients": patients, "tiles": tiles, "splits": {**patients, **tiles}},
        others=others,
        files=files,
        network=network,
    )
