"""Arrays that are worked on in bands of rows: in memory, or in files where a slide has too many
pixels."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.common.files import partial_path, sweep

BAND_PIXELS = 2**24
"""Of a band of rows; its objects take about 30 bytes a pixel."""

Box = slice | tuple[slice, slice]


class DiskPlane:
    """An array in a file. A piece of it is mapped only while it is read or written, so memory is
    that of pieces.

    Args:
      path: of the file, which is made; what is not written takes no room on the disk.
      shape: height and width.
      dtype: of the pixels.
      fill: their value until they are written.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any, fill: int = 0) -> None:
        self.shape, self._path, self._dtype, self._fill = shape, path, np.dtype(dtype), fill
        with path.open("wb") as file:
            file.truncate(shape[0] * shape[1] * self._dtype.itemsize)

    def __getitem__(self, box: Box) -> np.ndarray:
        found = np.array(self._mapped("r")[box])
        return found ^ self._dtype.type(self._fill) if self._fill else found

    def __setitem__(self, box: Box, values: Any) -> None:
        mapped = self._mapped("r+")
        new = np.asarray(values, self._dtype)
        mapped[box] = new ^ self._dtype.type(self._fill) if self._fill else new

    def _mapped(self, mode: Any) -> np.ndarray:
        return np.memmap(self._path, self._dtype, mode, shape=self.shape)


Plane = np.ndarray | DiskPlane
"""What has `height, width` pixels, and is read and written in boxes."""
Allocate = Callable[[str, tuple[int, int], Any, int], Plane]
"""From a name, height and width, dtype, and what it is filled with, to a plane."""


def in_memory(name: str, shape: tuple[int, int], dtype: Any, fill: int = 0) -> Plane:
    """An array; `name` stands for nothing."""
    return np.full(shape, fill, dtype)


def on_disk(folder: Path) -> Allocate:
    """Makes planes of files in a folder."""
    return lambda name, shape, dtype, fill: DiskPlane(folder / name, shape, dtype, fill)


@contextmanager
def room_for(path: Path, pixels: int) -> Iterator[Allocate]:
    """Where planes of so many pixels are kept: small ones in memory, others in a folder beside
    `path` that is gone afterwards, as is what a killed process left there."""
    if pixels <= BAND_PIXELS:
        yield in_memory
        return
    sweep(path)
    folder = partial_path(path)
    folder.mkdir()
    try:
        yield on_disk(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a plane in pieces of about BAND_PIXELS."""
    height, width = shape[:2]
    step = max(BAND_PIXELS // max(width, 1), 1)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))
