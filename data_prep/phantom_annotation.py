"""The annotation of a phantom slide, as QuPath exports it: its classes as polygons with holes."""

import json
import os
import uuid
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool

from data_prep.phantom_draw import enlarge
from data_prep.phantom_tissue import GRID, Tissue

CLASSES = {"stroma": (150, 200, 150), "tumour": (200, 0, 0), "necrosis": (60, 60, 160)}
"""Classes of the annotation, from the outermost to the innermost, with their colours in QuPath."""


def class_regions(tissue: Tissue) -> dict[str, Bool[np.ndarray, "s s"]]:
    """The region of each class at level 0, with what is nested in it; glass belongs to none."""
    rows = (0, tissue.tissue.shape[0] * GRID)
    inside = (enlarge(tissue.tissue, rows) > 0) & (enlarge(tissue.lumen, rows) <= 0)
    tumour = inside & (enlarge(tissue.tumour, rows) > 0)
    return {
        "stroma": inside,
        "tumour": tumour,
        "necrosis": tumour & (enlarge(tissue.necrosis, rows) > 0),
    }


def _rings(contour: np.ndarray) -> list[list[float]]:
    """A closed ring in level-0 coordinates, in which the centre of the first pixel is (0.5,
    0.5)."""
    simple = cv2.approxPolyDP(contour, 1.2, True)[:, 0]
    ring = [[float(x) + 0.5, float(y) + 0.5] for x, y in simple]
    return [*ring, ring[0]]


def outline_polygons(
    region: Bool[np.ndarray, "s s"], least: float
) -> list[list[list[list[float]]]]:
    """Outlines of a region as polygons with holes.

    Args:
      region: the region.
      least: area in pixels below which a part or a hole is left out.

    Returns:
      A list of polygons; each is a list of closed rings, the outer one first.
    """
    contours, tree = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    polygons = []
    for i, contour in enumerate(contours):
        if tree[0, i, 3] >= 0 or cv2.contourArea(contour) < least:
            continue
        rings, hole = [_rings(contour)], tree[0, i, 2]
        while hole >= 0:
            if cv2.contourArea(contours[hole]) >= least:
                rings.append(_rings(contours[hole]))
            hole = tree[0, hole, 0]
        polygons.append([ring for ring in rings if len(ring) >= 4])
    return [rings for rings in polygons if rings]


def write_annotation(path: Path, tissue: Tissue, seed: tuple[int, ...]) -> None:
    """Writes the annotation of a slide as QuPath exports it, one feature a polygon."""
    rng = np.random.default_rng((*seed, 77))
    features = []
    for name, region in class_regions(tissue).items():
        for rings in outline_polygons(region, least=400.0):
            classification = {"name": name, "color": list(CLASSES[name])}
            features.append(
                {
                    "type": "Feature",
                    "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
                    "geometry": {"type": "Polygon", "coordinates": rings},
                    "properties": {"objectType": "annotation", "classification": classification},
                }
            )
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    partial.replace(path)
