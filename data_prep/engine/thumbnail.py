"""The picture of a packed slide: tissue, annotation and which tiles were taken, with a legend."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from data_prep.class_plan import RGB, ClassPlan, palette
from data_prep.engine import sample
from data_prep.engine.job import Task
from data_prep.engine.overview import View
from data_prep.engine.shelf import part_name
from data_prep.engine.source import Image, Mask, Source
from data_prep.tile_grid import Position
from stedm_jax.common.labels import VOID

TAKEN, TISSUE, GLASS, REJECTED = (30, 160, 30), (250, 210, 0), (90, 90, 250), (230, 0, 230)
MOST, LEAST = 2048, 1024
"""Longer side of the picture."""
TINT, FADED, GRAY = 0.35, 0.6, 150
FONT = cv2.FONT_HERSHEY_SIMPLEX, 0.45
LONGEST = 200
"""Most bytes of a file's name; file systems take 255."""


def thumbnail_files(folder: Path, keys: Sequence[str]) -> dict[str, Path]:
    """Key of a job -> its thumbnail in a folder; keys that differ only in the suffix keep it, and
    long ones are cut."""
    names = {key: Path(key).with_suffix(".png").as_posix().replace("/", "_") for key in keys}
    counts = Counter(names.values())
    return {
        key: folder
        / (name if counts[name] == 1 and len(name.encode()) <= LONGEST else f"{part_name(key)}.png")
        for key, name in names.items()
    }


def draw_thumbnail(task: Task, source: Source, view: View, taken: Mapping[Position, str]) -> Image:
    """Draws it; labels of a mask are shown as a tint, polygons as lines.

    Args:
      task, source, view: of the slide.
      taken: upper left corners of the tiles in the records -> kind.
    """
    plan, image, tissue = task.plan, view.image, view.tissue
    legend = [("tile", TAKEN)]
    if sample.GLASS in taken.values():
        legend.append(("glass tile", GLASS))
    outlined, classes = [], []
    longer = max(image.shape[:2])
    size = min(1.0, MOST / longer) * max(1.0, min(2.0, LEAST / longer))
    if task.labeled and not source.polygons:
        labels = source.labels((0, 0, *image.shape[:2]), view.step)
        image = _tint(image, labels, plan)
        shown = enumerate(plan.classes)
        classes = [(spec.name, spec.color) for i, spec in shown if np.any(labels == i)]
    if tissue is not None:
        faded = cv2.addWeighted(image, FADED, image, 0, GRAY * (1 - FADED))
        image = cv2.copyTo(image, tissue.mask.astype(np.uint8), faded)
        rejected = tissue.pen | tissue.blur
        outlined = [(tissue.mask, TISSUE), (rejected, REJECTED)]
        legend.append(("edge of tissue (gray: none)", TISSUE))
        legend += [("pen or blur", REJECTED)] if rejected.any() else []
    picture = cv2.resize(image, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
    for mask, color in outlined:
        found = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        lines = [np.round(outline * size).astype(np.int32) for outline in found[0]]
        cv2.polylines(picture, lines, True, color, 2)
    colors = {name: plan.classes[i].color for name, i in plan.ids.items() if i < len(plan.classes)}
    scale = 1 / (source.factor * view.step)
    for polygon in source.polygons:
        rings = [np.round(ring * scale * size).astype(np.int32) for ring in polygon.rings]
        color = colors.get(polygon.name, palette(7))
        classes.append((polygon.name, color))
        cv2.polylines(picture, rings, True, color, 2)
    pixel, tile = 1 / view.step * size, task.rules.tile
    for (y, x), kind in taken.items():
        left, top, right, bottom = (round(at * pixel) for at in (x, y, x + tile, y + tile))
        color = GLASS if kind == sample.GLASS else TAKEN
        cv2.rectangle(picture, (left + 1, top + 1), (right - 1, bottom - 1), color, 1)
    entries = dict.fromkeys([*legend, *classes])
    return np.concatenate([picture, _legend(entries, picture.shape[1])])


def _tint(image: Image, labels: Mask, plan: ClassPlan) -> Image:
    table = np.zeros((256, 3), np.uint8)
    for i, spec in enumerate(plan.classes):
        table[i] = spec.color
    mixed = cv2.addWeighted(image, 1 - TINT, table[labels], TINT, 0)
    return np.where((labels == VOID)[..., None], image, mixed)


def _legend(entries: Iterable[tuple[str, RGB]], width: int) -> Image:
    """A strip of colored squares and names, as many lines as it needs."""
    places, x, y = [], 8, 20
    for text, color in entries:
        plain = text.encode("ascii", "replace").decode()
        wide = cv2.getTextSize(plain, *FONT, 1)[0][0] + 34
        if x + wide > width and x > 8:
            x, y = 8, y + 20
        places.append((plain, color, x, y))
        x += wide
    strip = np.full((y + 8, width, 3), 255, np.uint8)
    for text, color, x, y in places:
        cv2.rectangle(strip, (x, y - 11), (x + 11, y), color, -1)
        cv2.putText(strip, text, (x + 16, y), *FONT, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
