"""The form "folder": PNG images and masks, outlines as GeoJSON, and COCO."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from data_prep.exporting.areas import Area, areas_of, coco_annotation, outline
from data_prep.exporting.exported import Item, Whole
from stedm_jax.data.codecs import encode_mask, encode_png
from stedm_jax.data.schema import ClassSpec

ABOUT = """\
| place | what |
|---|---|
| `images/SPLIT/NAME.png` | RGB images |
| `masks/SPLIT/NAME.png` | class of each pixel, as numbered below; 255: not labeled |
| `outlines/SPLIT/NAME.geojson` | each connected area of a class but the background, with its holes, along the edges of its pixels; QuPath opens them |
| `coco/SPLIT.json` | the same areas in COCO's form, as run lengths (`segmentation.counts`), which pycocotools reads; tiles without a labeled pixel are left out, since COCO would take them for empty ones |
"""  # noqa: E501


class Plain:
    """See Form.

    Args:
      folder: of the export; COCO's files are written while tiles are.
      classes: of the masks. labels: ids of those that are outlined.
      splits: of the tiles.
    """

    about = ABOUT

    def __init__(
        self,
        folder: Path,
        classes: Sequence[ClassSpec],
        labels: Sequence[int],
        splits: Sequence[str],
    ):
        self.classes, self.labels = classes, labels
        for kind in ("images", "masks", "outlines"):
            for split in splits:
                (folder / kind / split).mkdir(parents=True)
        (folder / "coco").mkdir()
        self._files = {split: CocoFile(folder / "coco" / f"{split}.json") for split in splits}

    def place(self, item: Item) -> tuple[str, str]:
        """See Form."""
        name = f"{item.row.split}/{item.name}.png"
        return f"images/{name}", f"masks/{name}"

    def write(self, folder: Path, item: Item, whole: Whole) -> list[dict[str, Any]]:
        """See Form; returns COCO's annotations."""
        image, mask = self.place(item)
        (folder / image).write_bytes(encode_png(whole.image))
        (folder / mask).write_bytes(encode_mask(whole.mask))
        areas = list(areas_of(whole.mask, self.labels))
        outlines = [outline(area, self.classes[area.label]) for area in areas]
        collection = {"type": "FeatureCollection", "features": outlines}
        place = folder / "outlines" / item.row.split / f"{item.name}.geojson"
        place.write_text(json.dumps(collection))
        return [self._annotation(area, whole) for area in areas]

    def _annotation(self, area: Area, whole: Whole) -> dict[str, Any]:
        height, width = whole.mask.shape
        return coco_annotation(area, (height, width), self.labels.index(area.label) + 1)

    def add(self, item: Item, found: list[dict[str, Any]]) -> None:
        """See Form."""
        if item.row.labelled:
            self._files[item.row.split].add(item, found)

    def finish(self, folder: Path, items: list[Item]) -> None:
        """See Form."""
        categories = [
            {"id": number, "name": self.classes[label].name, "supercategory": ""}
            for number, label in enumerate(self.labels, start=1)
        ]
        for file in self._files.values():
            file.close(categories)


class CocoFile:
    """A JSON file of COCO whose annotations are written as they come; without it they would all
    have to be held."""

    def __init__(self, path: Path):
        self._file: TextIO = path.open("w")
        self._images: list[dict[str, Any]] = []
        self._annotations = 0
        self._file.write('{"annotations": [')

    def add(self, item: Item, annotations: Sequence[dict[str, Any]]) -> None:
        """Takes in an image; images and annotations are numbered from 1."""
        image = {"id": len(self._images) + 1, "file_name": f"{item.name}.png"}
        side = {"width": item.tiles.tile, "height": item.tiles.tile}
        self._images.append(image | side | {"patient": item.row.patient})
        for each in annotations:
            comma = ",\n" if self._annotations else "\n"
            self._annotations += 1
            numbered = {"id": self._annotations, "image_id": len(self._images)} | each
            self._file.write(comma + json.dumps(numbered))

    def close(self, categories: list[dict[str, Any]]) -> None:
        """Completes the file."""
        rest = {"images": self._images, "categories": categories}
        self._file.write("],\n" + json.dumps(rest)[1:])
        self._file.close()
