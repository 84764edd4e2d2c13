"""What the house needs of a file that holds a picture, and errors that name the file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError

MOST_PIXELS = 178_956_970
"""What may be held in memory as a whole, 540 MB of RGB: as much as Pillow opens by default."""


class SlideReader(ABC):
    """A picture as its file has it and as a viewer shows it: pixels of its levels, and what the
    file says of itself.

    Attributes:
      path: the file.
      level_sizes: (width, height) of each level, the finest first.
      downsamples: how many pixels of level 0 a pixel of each level is wide, as the file says or its
        sizes tell.
      sides: microns along x and along y of a pixel of level 0, if the file says so.
      ignored: a resolution that its tags say and no microscope has, else "".
      origin: x, y in level-0 pixels of the part that was scanned, where the file says so.
      beside: width and height of other pictures in the file, where nothing says that they are
        previews.
      is_slide: whether it is a scanner's file: it has several levels, or a format that says its
        microns.
    """

    path: Path
    level_sizes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...] = (1.0,)
    sides: tuple[float, float] | None = None
    ignored: str = ""
    origin: tuple[int, int] = (0, 0)
    beside: tuple[tuple[int, int], ...] = ()
    is_slide: bool = False

    @abstractmethod
    def __init__(self, path: Path) -> None: ...

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of level 0 if the file says so, the mean of both sides."""
        return None if self.sides is None else sum(self.sides) / 2

    @abstractmethod
    def read_level(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Reads RGB, on white where nothing was scanned; the box, in pixels of the level, lies
        within it.

        Raises:
          UserError: the file is damaged there.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""


@contextmanager
def reading(path: Path, what: str = "cannot be read") -> Iterator[None]:
    """Turns whatever a decoder raises (they have classes of their own) into an error for the user.

    Raises:
      UserError: names the file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} {what} ({type(error).__name__}: {error}); copy or save it again, or leave it "
            "out."
        ) from error


def check_size(path: Path, width: int, height: int) -> None:
    """Refuses a picture without pixels, or with more than can be held in memory.

    Raises:
      UserError: says how to make a tiled pyramid of it.
    """
    if width < 1 or height < 1:
        raise UserError(f"{path} has no pixels ({width}x{height}); save it again or leave it out.")
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path} is {width}x{height} pixels; a picture that is no tiled pyramid may have "
            f"{MOST_PIXELS // 10**6} million. Make one of it: vips tiffsave {path.name} "
            f"{path.stem}-tiled.tif --tile --pyramid --compression=jpeg --Q=90 --bigtiff."
        )
