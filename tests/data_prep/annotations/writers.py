"""Writes polygons in the formats that are read, as their programs do."""

import json
import sqlite3
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from data_prep.annotations import draw_mask


def closed(ring):
    return [*ring.tolist(), ring[0].tolist()]


def write_geojson(path, polygons):
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [closed(ring) for ring in polygon.rings],
            },
            "properties": {
                "objectType": "annotation",
                "isLocked": True,
                "classification": {"name": polygon.name, "color": list(polygon.color or (1, 2, 3))},
            },
        }
        for polygon in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def write_asap(path, polygons):
    annotations, groups = "", ""
    for number, polygon in enumerate(polygons):
        points = enumerate(polygon.rings[0].tolist())
        annotations += (
            f'<Annotation Name="{number}" Type="Polygon" PartOfGroup={quoteattr(polygon.name)}>'
        )
        annotations += "<Coordinates>" + "".join(
            f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in points
        )
        annotations += "</Coordinates></Annotation>"
    for name in sorted({polygon.name for polygon in polygons}):
        groups += f'<Group Name={quoteattr(name)} PartOfGroup="None" Color="#64FE2E">'
        groups += "<Attributes/></Group>"
    path.write_text(
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{annotations}</Annotations>'
        f"<AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )
    return path


def coco(slides, flat=False):
    """COCO of {slide: (polygons, (width, height))}; `flat` as the published CATCH file."""
    names = sorted({polygon.name for polygons, _ in slides.values() for polygon in polygons})
    data = {"images": [], "annotations": [], "licenses": []}
    data["categories"] = [
        {"id": i, "name": n, "supercategory": "Tissue"} for i, n in enumerate(names, 1)
    ]
    for number, (slide, (polygons, (width, height))) in enumerate(slides.items(), 1):
        data["images"].append(
            {"license": 1, "file_name": slide, "id": number, "width": width, "height": height}
        )
        for polygon in polygons:
            points = [value for point in closed(polygon.rings[0]) for value in point]
            data["annotations"].append(
                {
                    "segmentation": points if flat else [points],
                    "iscrowd": 0,
                    "image_id": number,
                    "category_id": names.index(polygon.name) + 1,
                    "id": len(data["annotations"]) + 1,
                    "bbox": list(polygon.box),
                    "area": polygon.area,
                }
            )
    return data


SCHEMA = """
CREATE TABLE `Annotations_label` (
  `uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `person` INTEGER, `class` INTEGER,
  `exact_id` INTEGER, `annoId` INTEGER);
CREATE TABLE `Annotations_coordinates` (
  `uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `coordinateX` INTEGER, `coordinateY` INTEGER,
  `coordinateZ` INTEGER DEFAULT 0, `slide` INTEGER, `annoId` INTEGER, `orderIdx` INTEGER);
CREATE TABLE `Annotations` (
  `uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `slide` INTEGER, `guid` TEXT,
  `lastModified` REAL, `deleted` INTEGER DEFAULT 0, `type` INTEGER, `agreedClass` INTEGER,
  `description` TEXT);
CREATE TABLE `Classes` (
  `uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `name` TEXT, `color` TEXT);
CREATE TABLE `Persons` (
  `uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `name` TEXT, `isExactUser` INTEGER DEFAULT 0);
CREATE TABLE `Slides` (
  `uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, `filename` TEXT, `width` INTEGER,
  `height` INTEGER, `directory` TEXT, `uuid` TEXT, `exactImageID` TEXT,
  `EXACTUSER` INTEGER DEFAULT 0);
"""


def write_sliderunner(path, slides, more=""):
    """A database of {slide: [(class, type, points), ...]}."""
    base = sqlite3.connect(path)
    base.executescript(SCHEMA)
    names = sorted({name for shapes in slides.values() for name, _, _ in shapes})
    base.executemany(
        "INSERT INTO Classes (name, color) VALUES (?, '#0a141e')", [(name,) for name in names]
    )
    for slide, shapes in slides.items():
        uid = base.execute("INSERT INTO Slides (filename) VALUES (?)", (slide,)).lastrowid
        for name, kind, points in shapes:
            number = names.index(name) + 1
            insert = "INSERT INTO Annotations (slide, type, agreedClass) VALUES (?, ?, ?)"
            annotation = base.execute(insert, (uid, kind, number)).lastrowid
            base.execute(
                "INSERT INTO Annotations_label (person, class, annoId) VALUES (1, ?, ?)",
                (number, annotation),
            )
            rows = [(x, y, uid, annotation, i) for i, (x, y) in enumerate(points, 1)]
            base.executemany(
                "INSERT INTO Annotations_coordinates "
                "(coordinateX, coordinateY, slide, annoId, orderIdx) VALUES (?, ?, ?, ?, ?)",
                rows[::-1],
            )
    base.executescript(more)
    base.commit()
    base.close()
    return path


def write_exact(path, slides):
    lines = ["# Export of Imageset kidney"]
    for slide, polygons in slides.items():
        for polygon in polygons:
            points = enumerate(polygon.rings[0].tolist(), 1)
            vector = {
                f"{axis}{i}": value
                for i, point in points
                for axis, value in zip("xy", point, strict=True)
            }
            lines.append(f"{slide}|{polygon.name}|{json.dumps(vector)}|")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_label_mask(path, polygons, size, factor):
    """A mask of ids from 1, with names beside it; returns the ids too."""
    ids = {name: i for i, name in enumerate(sorted({polygon.name for polygon in polygons}), 1)}
    mask = draw_mask(
        polygons, ids, (0, 0, -(-size[1] // factor), -(-size[0] // factor)), float(factor), 0
    )
    picture = Image.fromarray(mask)
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    picture.save(path)
    path.with_name(path.stem + ".classes.json").write_text(
        json.dumps({str(i): name for name, i in ids.items()})
    )
    return mask, ids
