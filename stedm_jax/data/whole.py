"""Whole images with their truth, beside a tile set: what fused predictions and objects are scored
on. No jax in here.

    DIR/images/NAME            the image, as it was given
    DIR/masks/NAME.png         class ids, 255 unlabeled
    DIR/instances/NAME.png     numbers of objects, 16 bits, 0 for none; missing where there are none
    DIR/index.csv              a row an image: files, their SHA-256, patient, split, microns per
                               pixel, tags
    DIR/manifest.json          classes, colors, checksum of the index

A set appears under its name when it is complete and not before. Files are compared with their
checksums when read.
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import partial_path, replace_folder, sha256_of, write_json
from stedm_jax.common.version import __version__
from stedm_jax.data.codecs import decode_mask, encode_mask
from stedm_jax.data.schema import ClassSpec

KIND = "whole images"
FOLDERS = ("images", "masks", "instances")
COLUMNS = (
    "image",
    "mask",
    "instances",
    "patient",
    "split",
    "mpp",
    "tags",
    *(f"{each}_sha256" for each in FOLDERS),
)


@dataclass(frozen=True)
class WholeImage:
    """One image of a set.

    Attributes:
      image, mask, instances: files below the folder of the set; instances "" where there is none.
      patient, split: as those of a tile.
      mpp: microns per pixel.
      tags: anything else that the cohort says, such as the part of the official split.
      checksums: SHA-256 of the three files.
    """

    image: str
    mask: str
    instances: str
    patient: str
    split: str
    mpp: float
    tags: Mapping[str, str] = field(default_factory=dict)
    checksums: tuple[str, ...] = ("", "", "")

    @property
    def name(self) -> str:
        """Its file without folder and ending."""
        return Path(self.image).stem


@dataclass(frozen=True)
class WholeSet:
    """A set that is there: its folder, classes and images."""

    path: Path
    classes: tuple[ClassSpec, ...]
    images: tuple[WholeImage, ...]

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a folder holds such a set."""
        return (path / "index.csv").is_file() and (path / "manifest.json").is_file()

    @staticmethod
    def open(path: Path) -> "WholeSet":
        """Opens a set.

        Raises:
          UserError: the folder holds none, or one whose index was changed.
        """
        if not WholeSet.is_one(path):
            raise UserError(
                f"{path} holds no whole images with truth; the option --whole of data_prep makes "
                "them."
            )
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest.get("kind") != KIND:
            what = manifest.get("name", "something else")
            raise UserError(f"{path} holds {what}, not whole images with truth.")
        if manifest["index_sha256"] != sha256_of(path / "index.csv"):
            raise UserError(
                f"{path / 'index.csv'} is damaged or was changed; make the set again with --whole."
            )
        with (path / "index.csv").open(newline="") as file:
            rows = [_row(entry) for entry in csv.DictReader(file)]
        specs = (ClassSpec(each["name"], tuple(each["color"])) for each in manifest["classes"])
        return WholeSet(path, tuple(specs), tuple(rows))

    def file(self, row: WholeImage, kind: str = "images") -> Path:
        """A file of an image ("images", "masks", "instances"), compared with its checksum.

        Raises:
          UserError: it is gone or was changed.
        """
        number = FOLDERS.index(kind)
        path = self.path / (row.image, row.mask, row.instances)[number]
        if not path.is_file() or sha256_of(path) != row.checksums[number]:
            raise UserError(
                f"{path} is missing, damaged or was changed; make the set again with --whole."
            )
        return path

    def mask(self, row: WholeImage) -> UInt8[np.ndarray, "h w"]:
        """Class ids of an image. Raises UserError as `file`."""
        return decode_mask(self.file(row, "masks").read_bytes())

    def instances(self, row: WholeImage) -> Integer[np.ndarray, "h w"] | None:
        """Numbers of its objects; None where there are none. Raises UserError as `file`."""
        if not row.instances:
            return None
        data = np.frombuffer(self.file(row, "instances").read_bytes(), np.uint8)
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.uint16)


def _row(entry: Mapping[str, str]) -> WholeImage:
    texts = {key: entry[key] for key in COLUMNS[:5]}
    sums = tuple(entry[f"{each}_sha256"] for each in FOLDERS)
    return WholeImage(
        **texts, mpp=float(entry["mpp"]), tags=json.loads(entry["tags"]), checksums=sums
    )


class WholeWriter:
    """Writes a set; a context manager that gives it its name when the block ends without an error
    and an image was written.

    Args:
      out: the folder; a set that stands there is replaced.
      classes: of the masks.
    """

    def __init__(self, out: Path, classes: Sequence[ClassSpec]):
        self.out, self.classes, self.rows = out, tuple(classes), list[WholeImage]()
        self.partial = partial_path(out)

    def __enter__(self) -> "WholeWriter":
        shutil.rmtree(self.partial, ignore_errors=True)
        for folder in FOLDERS:
            (self.partial / folder).mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.rows:
                self._describe()
                replace_folder(self.partial, self.out, sync=True)
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)

    def _describe(self) -> None:
        """Writes index and manifest."""
        index = self.partial / "index.csv"
        with index.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for row in self.rows:
                texts = [row.image, row.mask, row.instances, row.patient, row.split, row.mpp]
                table.writerow([*texts, json.dumps(dict(row.tags), sort_keys=True), *row.checksums])
        classes = [{"name": each.name, "color": list(each.color)} for each in self.classes]
        manifest = {"kind": KIND, "written_by": f"stedm_jax {__version__}", "classes": classes}
        write_json(self.partial / "manifest.json", manifest | {"index_sha256": sha256_of(index)})

    def write(
        self,
        image: Path,
        mask: UInt8[np.ndarray, "h w"],
        instances: Integer[np.ndarray, "h w"] | None,
        *,
        patient: str,
        split: str,
        mpp: float,
        tags: Mapping[str, str],
    ) -> None:
        """Adds an image, whose file is copied.

        Raises:
          UserError: another image has its name.
          ValueError: more than 65,535 objects.
        """
        stem = image.stem
        if any(row.name == stem for row in self.rows):
            raise UserError(f"Two images are called {stem}; rename one.")
        shown, classes, objects = f"images/{image.name}", f"masks/{stem}.png", ""
        shutil.copyfile(image, self.partial / shown)
        (self.partial / classes).write_bytes(encode_mask(mask))
        if instances is not None:
            if instances.max(initial=0) > 65535:
                raise ValueError(f"{stem} has the object number {instances.max()}")
            objects = f"instances/{stem}.png"
            pixels = cv2.imencode(".png", instances.astype(np.uint16))[1]
            (self.partial / objects).write_bytes(pixels.tobytes())
        files = (shown, classes, objects)
        sums = tuple(sha256_of(self.partial / name) if name else "" for name in files)
        self.rows.append(WholeImage(shown, classes, objects, patient, split, mpp, dict(tags), sums))
