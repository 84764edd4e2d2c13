"""Areas of all images, as rows of a table and as a page that shows their overlays."""

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from stedm_jax.common.text import percent
from stedm_jax.inference.outputs import KINDS

Lines = Sequence[Mapping[str, Any]]


def areas(lines: Lines) -> list[dict[str, Any]]:
    """A row for each image and class: its area in mm2, and its share of what was segmented, of a
    slide of its tissue. NaN where nothing was.

    Args:
      lines: of the report, of images that are done.
    """
    rows = []
    for line in lines:
        whole = sum(line["mm2"].values())
        for name, mm2 in line["mm2"].items():
            share = mm2 / whole if whole else float("nan")
            rows.append({"image": line["image"], "class": name, "mm2": mm2, "share": share})
    return rows


def page(lines: Lines, colors: Mapping[str, Sequence[int]]) -> str:
    """An HTML page that lists images with their overlays and numbers.

    Args:
      lines: as `areas` takes them.
      colors: of the classes.
    """
    environment = Environment(
        loader=PackageLoader("stedm_jax.inference"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "overlay": _overlay}
    return environment.get_template("slides.html").render(
        lines=sorted(lines, key=lambda line: str(line["image"])), colors=colors
    )


def _overlay(name: str) -> str:
    """Where the overlay of an image is, from the page."""
    return quote(os.fsencode(PurePosixPath(f"{name}{KINDS['overlay']}")))
