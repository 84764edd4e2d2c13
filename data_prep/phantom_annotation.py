"""The annotation of a phantom slide, as QuPath exports it: its classes as polygons with holes."""

import json
import uuid
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool

from data_prep.phantom_draw import enlarge
from data_prep.phantom_tissue import GRID, Tissue
from stedm_jax.common.files import write_text

CLASSES = {"stroma": (150, 200, 150), "tumour": (200, 0, 0), "necrosis": (60, 60, 160)}
"""Classes of the annotation, from the outermost to the innermost, with their colors in QuPath."""
LEAST = 400.0
"""Area in pixels below which a part or a hole is left out."""

Ring = list[list[float]]


def class_regions(tissue: Tissue) -> dict[str, Bool[np.ndarray, "s s"]]:
    """The region of each class at level 0, with what is nested in it; glass belongs to none."""
    rows = (0, tissue.tissue.shape[0] * GRID)
    inside = (enlarge(tissue.tissue, rows) > 0) & (enlarge(tissue.lumen, rows) <= 0)
    tumor = inside & (enlarge(tissue.tumor, rows) > 0)
    necrosis = tumor & (enlarge(tissue.necrosis, rows) > 0)
    return {"stroma": inside, "tumour": tumor, "necrosis": necrosis}


def _ring(contour: np.ndarray) -> Ring:
    """A closed ring in level-0 coordinates, in which the center of the first pixel is (0.5,
    0.5)."""
    simple = (cv2.approxPolyDP(contour, 1.2, True)[:, 0] + 0.5).tolist()
    return [*simple, simple[0]]


def _outlines(region: Bool[np.ndarray, "s s"]) -> list[list[Ring]]:
    """Outlines of a region as polygons; each is a list of rings, the outer one first."""
    contours, tree = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    polygons = []
    for i, contour in enumerate(contours):
        _, _, hole, parent = tree[0, i]
        if parent >= 0 or cv2.contourArea(contour) < LEAST:
            continue
        rings = [_ring(contour)]
        while hole >= 0:
            if cv2.contourArea(contours[hole]) >= LEAST:
                rings.append(_ring(contours[hole]))
            hole = tree[0, hole, 0]
        polygons.append([ring for ring in rings if len(ring) >= 4])
    return [rings for rings in polygons if rings]


def write_annotation(path: Path, tissue: Tissue, seed: tuple[int, ...]) -> None:
    """Writes the annotation of a slide as QuPath exports it, one feature a polygon."""
    rng = np.random.default_rng((*seed, 77))
    features = [
        {
            "type": "Feature",
            "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": list(CLASSES[name])},
            },
        }
        for name, region in class_regions(tissue).items()
        for rings in _outlines(region)
    ]
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}))
