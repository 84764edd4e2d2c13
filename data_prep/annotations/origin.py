"""Where the coordinates of an annotation begin: at the corner of the slide, or at that of the part
of it that was scanned.

Some slides (MRXS, SCN and others) say through OpenSlide which part of level 0 was scanned. QuPath
shows only that part and writes coordinates from its corner, unless the slide was imported with
--no-crop; ASAP, ImageScope and others write them from the corner of the whole slide.
"""

from dataclasses import dataclass

from data_prep.annotations.polygon import Begins
from data_prep.cohort_table import Row
from stedm_jax.common.errors import UserError

COLUMN = "annotation_origin"
"""Column of a table that says where the coordinates begin."""


@dataclass(frozen=True)
class Origin:
    """Where the coordinates of an annotation begin.

    Attributes:
      x, y: corner of the scanned part, in level-0 pixels.
      said: "bounds" adds it to all coordinates, "slide" to none, "" to those of QuPath's GeoJSON
        only.
    """

    x: int = 0
    y: int = 0
    said: str = ""

    def counts(self, begins: Begins) -> bool:
        """Whether the corner is to be added to coordinates of a file in which they begin there."""
        if begins == "always slide":
            return False
        return self.said == "bounds" or (begins == "bounds" and self.said != "slide")


def origin_of(row: Row, corner: tuple[int, int]) -> Origin:
    """What the column annotation_origin says of a slide whose scanned part begins at `corner`.

    Raises:
      UserError: it is neither bounds nor slide.
    """
    said = row.extra.get(COLUMN) or row.tags.get(COLUMN, "")
    if said not in ("", "bounds", "slide"):
        raise UserError(
            f"Slide {row.file} has {COLUMN}='{said}'; write bounds (coordinates begin at the "
            "scanned part, as QuPath writes them), slide (at the corner of the whole slide), or "
            "leave it empty."
        )
    return Origin(*corner, said)
