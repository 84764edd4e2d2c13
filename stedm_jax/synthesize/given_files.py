"""Layouts and styles in folders of a user, checked before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.image_file import SUFFIXES, read_image_file
from stedm_jax.imaging.label_file import read_mask

FITS = ("refuse", "crop", "pad")
KNOWN = (*SUFFIXES, ".tif", ".tiff")


@dataclass(frozen=True)
class Layouts:
    """Masks of a folder.

    Attributes:
      files: of the masks.
      values: numbers in the masks of each class of the run.
      side: of a tile in pixels.
      fit: what happens to masks of another size, of FITS.
    """

    files: Sequence[Path]
    values: Sequence[Sequence[int]]
    side: int
    fit: str

    @classmethod
    def find(cls, folder: Path, names: Sequence[str], own: str, side: int, fit: str) -> "Layouts":
        """Reads all masks of a folder once.

        Args:
          names: classes of the run. own: those of the masks by number, "a,b,c"; "": as the run.

        Raises:
          UserError: there is none, another class or another size.
        """
        given = own.split(",") if own else list(names)
        if unknown := [name for name in given if name not in names]:
            raise UserError(
                f"--classes names {', '.join(unknown)}; the classes of the run are "
                f"{', '.join(names)}."
            )
        values = [[n for n, each in enumerate(given) if each == name] for name in names]
        layouts = cls(_files(folder, "layouts"), values, side, fit)
        for file in layouts.files:
            layouts.read(file)
        return layouts

    def read(self, file: Path) -> UInt8[np.ndarray, "h w"]:
        """The layout of a mask, as large as a tile."""
        mask = read_mask(file, self.values)
        side, (height, width) = self.side, mask.shape
        small, large = min(height, width) < side, max(height, width) > side
        if (large and self.fit != "crop") or (small and self.fit != "pad"):
            raise UserError(
                f"The mask {file} is {width} x {height} pixels; the tiles of the run are {side} x "
                f"{side}. Give --fit=crop (the middle of larger ones), --fit=pad (unlabeled around "
                "smaller ones), or masks of that size."
            )
        if small:
            rows, columns = side - height, side - width
            around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
            return np.pad(mask, around, constant_values=VOID)
        top, left = (height - side) // 2, (width - side) // 2
        return mask[top : top + side, left : left + side]


@dataclass(frozen=True)
class Styles:
    """Style images of a folder, by patient.

    Attributes:
      patients: name -> its images.
      side: of a tile in pixels.
    """

    patients: dict[str, list[Path]]
    side: int

    @classmethod
    def find(cls, folder: Path, side: int) -> "Styles":
        """Reads all images of a folder once. A folder in it is a patient, an image in it too.

        Raises:
          UserError: there is none, or one is smaller than a tile.
        """
        patients: dict[str, list[Path]] = {}
        for file in _files(folder, "styles"):
            inside = file.relative_to(folder).parts
            name = inside[0] if len(inside) > 1 else file.stem
            patients.setdefault(name, []).append(file)
            height, width = read_image_file(file).shape[:2]
            if min(height, width) < side:
                raise UserError(
                    f"The style image {file} is {width} x {height} pixels, smaller than a tile of "
                    f"the run ({side} x {side}); leave it out, or give a larger one."
                )
        return cls(patients, side)

    def draw(
        self, patient: str, count: int, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "k h w 3"], list[Path]]:
        """Style tiles of a patient, each from anywhere in one of its images, and these images."""
        files = self.patients[patient]
        chosen = [files[i] for i in rng.choice(len(files), count, replace=len(files) < count)]
        return np.stack([self._cut(read_image_file(file), rng) for file in chosen]), chosen

    def _cut(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = (int(rng.integers(length - self.side + 1)) for length in image.shape[:2])
        return image[top : top + self.side, left : left + self.side]


def _files(folder: Path, option: str) -> list[Path]:
    """The images of a folder and below it.

    Raises:
      UserError: there is none.
    """
    found = folder.rglob("*") if folder.is_dir() else ()
    files = [each for each in found if each.suffix.lower() in KNOWN and each.name[0] != "."]
    if not files:
        raise UserError(f"--{option}={folder} is no folder with images in it.")
    return sorted(files)
