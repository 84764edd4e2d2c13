"""The files of an image: mask, outlines, maps, overlay."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.inference import outputs
from stedm_jax.inference.combine import uncertainty
from stedm_jax.inference.make_objects import Segmented
from stedm_jax.inference.outlines import features_by_box
from stedm_jax.inference.planes import Allocate, Plane
from stedm_jax.inference.pyramids import levels_of, write_ome_tiff
from stedm_jax.inference.segment import MOST_PIXELS
from stedm_jax.inference.trained_segmenter import Segmenter
from stedm_jax.inference.view import View
from stedm_jax.inference.zarr_pyramid import write_ome_zarr

SIDE = 1536
"""Longer side of an overlay."""
TINT = 0.4
DOUBTS = ("entropy", "disagreement")


class MapKeeper:
    """Keeps the maps of an image, 0 to 1 as 0 to 255, where they are to be written.

    Args:
      segmenter: whose maps they are.
      kinds: what is written.
      size: height and width.
      allocate: makes planes.
    """

    def __init__(
        self, segmenter: Segmenter, kinds: Sequence[str], size: tuple[int, int], allocate: Allocate
    ) -> None:
        self._classes, self._several = len(segmenter.names), segmenter.combined
        names = {"probabilities": segmenter.names, "uncertainty": DOUBTS[: 1 + self._several]}
        self.planes: dict[str, dict[str, Plane]] = {
            kind: {name: allocate(f"{kind}-{name}", size, np.uint8, 0) for name in names[kind]}
            for kind in names
            if kind in kinds
        }

    def take(self, top: int, maps: Float32[np.ndarray, "rows w m"]) -> None:
        """A band of maps, 0 where nothing was segmented."""
        rows = slice(top, top + len(maps))
        for kind, planes in self.planes.items():
            if kind == "probabilities":
                values = [maps[..., number] for number in range(self._classes)]
            else:
                values = uncertainty(maps, self._classes, self._several)
            for plane, value in zip(planes.values(), values, strict=True):
                plane[rows] = np.round(255 * value).astype(np.uint8)


def check_size(args: argparse.Namespace, view: View) -> None:
    """Refuses what cannot be made of so large an image, before it is segmented.

    Raises:
      UserError: says what to leave out.
    """
    height, width = view.size
    if (
        height * width > MOST_PIXELS
        and {"png", "objects"} & {*args.write}
        or (height * width > MOST_PIXELS and args.truth)
    ):
        raise UserError(
            f"Its mask would have {width} x {height} pixels, and {MOST_PIXELS:,} is the most of a "
            "PNG or for --truth. Write a pyramid: --write=classes,geojson; or give a --region."
        )


def write_files(
    paths: dict[str, Path],
    args: argparse.Namespace,
    segmenter: Segmenter,
    view: View,
    found: Segmented,
    maps: MapKeeper,
    allocate: Allocate,
) -> None:
    """Writes what `paths` names, each file complete or not at all.

    Raises:
      UserError: too many objects for their picture.
    """
    if "objects" in paths and len(found.boxes) > outputs.MOST_OBJECTS:
        raise UserError(f"{len(found.boxes)} objects are too many for --objects; raise --least.")
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    if "png" in paths:
        outputs.write_mask(paths["png"], found.mask[:], segmenter.colors)
    if "objects" in paths:
        outputs.write_numbers(paths["objects"], found.objects[:])
    if "geojson" in paths:
        tolerance = 1.0 if args.simplify is None else args.simplify / view.mpp
        kinds = (segmenter.names, segmenter.colors, segmenter.foreground)
        places = (view.scale, view.corner, tolerance, args.qupath)
        shapes = features_by_box(found.mask, found.objects, found.boxes, *kinds, *places)
        outputs.write_outlines(paths["geojson"], shapes)
    about = {str(number): name for number, name in enumerate(segmenter.names)}
    about[str(VOID)] = "not segmented"
    for kind, planes in maps.planes.items():
        levels = levels_of(list(planes.values()), True, allocate)
        write_ome_tiff(paths[kind], levels, list(planes), view.mpp, {"1.0": "255"})
    if "classes" in paths or "zarr" in paths:
        levels = levels_of([found.mask], False, allocate)
        if "classes" in paths:
            colors = segmenter.colors
            write_ome_tiff(paths["classes"], levels, ["class"], view.mpp, about, colors)
        if "zarr" in paths:
            write_ome_zarr(paths["zarr"], levels, view.mpp, about)
    if "overlay" in paths:
        outputs.write_picture(paths["overlay"], overlay(view, found.mask, segmenter.colors))


def overlay(
    view: View, mask: Plane, colors: Sequence[tuple[int, int, int]]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its classes as a tint, SIDE pixels long at most."""
    assert view.shrunk is not None
    step = max(1.0, max(view.size) / SIDE)
    image = view.shrunk(step)
    height, width = image.shape[:2]
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) * whole / side).astype(np.int64), whole - 1)
        for side, whole in zip((height, width), view.size, strict=True)
    )
    small = np.stack([mask[slice(row, row + 1)][0, columns] for row in rows.tolist()])
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    mixed = cv2.addWeighted(image, 1 - TINT, table[small], TINT, 0)
    return np.where((small == VOID)[..., None], image, mixed)
