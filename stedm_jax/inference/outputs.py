"""The files that inference writes, and what they must not take the place of."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_file
from stedm_jax.imaging.find_images import RESULT, is_result

REPORT = "report.jsonl"
TABLES = ("images.csv", "patients.csv", "summary.json")
AREAS, PAGE = "areas.csv", "slides.html"
KINDS = {
    "png": ".png",
    "geojson": ".geojson",
    "objects": "_objects.png",
    "classes": "_classes.ome.tif",
    "probabilities": "_probabilities.ome.tif",
    "uncertainty": "_uncertainty.ome.tif",
    "overlay": "_overlay.png",
    "zarr": "_classes.ome.zarr",
}
"""What can be written of an image, and the end of its name."""
USUAL = ("png", "geojson")
OF_ALL = {"csv": AREAS, "page": PAGE}
"""What can be written of all images."""
MOST_OBJECTS = 65535
LONGEST = 255
"""Bytes of the name of a file."""


def outputs_of(out: Path, name: str, kinds: Iterable[str]) -> dict[str, Path]:
    """What is written of an image: kind -> file."""
    return {kind: out / f"{name}{KINDS[kind]}" for kind in KINDS if kind in kinds}


def is_ours(path: Path) -> bool:
    """Whether a file, or a folder of OME-Zarr, is a result of inference."""
    return is_result(path / "zarr.json" if path.is_dir() else path)


def check_length(out: Path, name: str, kinds: Iterable[str]) -> None:
    """Refuses an image whose results would have names that no file system takes.

    Raises:
      UserError: names it.
    """
    for path in outputs_of(out, name, kinds).values():
        if len(os.fsencode(path.name)) > LONGEST:
            raise UserError(
                f"{path.name} has more than the {LONGEST} bytes that the name of a file can have; "
                "give the image a shorter name."
            )


def _is_there(path: Path) -> bool:
    return len(os.fsencode(path.name)) <= LONGEST and path.exists()


def check_outputs(
    out: Path, names: Sequence[str], kinds: Iterable[str], inputs: Iterable[Path]
) -> None:
    """Refuses to write over what is read, and over what another program wrote.

    Args:
      out: the folder of the results.
      names: of the images.
      kinds: what is written of each.
      inputs: files that are read.

    Raises:
      UserError: names both files.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; give a folder.")
    read = {_identity(path): path for path in inputs if path.exists()}
    writers: dict[Path, str] = {}
    for name in names:
        for path in outputs_of(out, name, kinds).values():
            if path in writers:
                raise UserError(f"{writers[path]} and {name} would both give {path}; rename one.")
            writers[path] = name
    report = out / REPORT
    ours = report.is_file() and report.read_bytes()[:8] in (b"", b'{"image"')
    tables = (*TABLES, *OF_ALL.values())
    for path in [*writers, report, *(out / table for table in tables)]:
        if not _is_there(path):
            continue
        if _identity(path) in read:
            raise UserError(
                f"{path} would be written over {read[_identity(path)]}, which is read; choose "
                "another folder for --out."
            )
        if not (is_ours(path) if path in writers else ours):
            raise UserError(
                f"{path} is there already and was not written by this command (or by version 0.1 "
                "of it); choose another folder for --out, or take the file away."
            )


def _identity(path: Path) -> tuple[int, int]:
    """The file behind a name, whatever links lead to it."""
    about = path.stat()
    return about.st_dev, about.st_ino


def write_mask(
    path: Path, mask: UInt8[np.ndarray, "h w"], colors: Sequence[tuple[int, int, int]]
) -> None:
    """Class ids as a PNG with the colors of the classes as palette; white is VOID."""
    picture = Image.fromarray(mask)
    table = np.array(colors, np.uint8)
    if mask.max(initial=0) >= len(table):  # a short palette would cut ids down to its bits
        table = np.concatenate([table, np.full((256 - len(table), 3), 255, np.uint8)])
    picture.putpalette(table.tobytes())
    _save(path, picture)


def write_picture(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """RGB as a PNG."""
    _save(path, Image.fromarray(image))


def write_numbers(path: Path, objects: Integer[np.ndarray, "h w"]) -> None:
    """Numbers of objects as a PNG of 16 bits."""
    _save(path, Image.fromarray(objects.astype(np.uint16)))


def write_outlines(path: Path, features: Iterable[dict[str, Any]]) -> None:
    """Features as a GeoJSON file, a line each, written as they come."""
    head = {"type": "FeatureCollection", "written_by": RESULT.decode(), "features": []}
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head).removesuffix("]}"))
        for number, feature in enumerate(features):
            file.write((",\n" if number else "\n") + json.dumps(feature))
        file.write("\n]}\n")


def _save(path: Path, picture: Image.Image) -> None:
    about = PngInfo()
    about.add_text("Software", RESULT.decode())
    with atomic_file(path) as partial:
        picture.save(partial, "PNG", pnginfo=about)
