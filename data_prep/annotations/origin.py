"""Where the coordinates of an annotation begin: the corner of the slide, or that of the part of it
that was scanned.

Some slides (MRXS, SCN and others) say through OpenSlide which part of level 0 was scanned. QuPath
shows that part only and writes coordinates from its corner, unless the slide was imported with
--no-crop; ASAP, ImageScope and others write them from the corner of the whole slide.
"""

from dataclasses import dataclass

from data_prep.cohort_table import Row
from stedm_jax.common.errors import UserError

COLUMN = "annotation_origin"
"""Column of a table that says what the coordinates begin at."""
CHOICES = ("", "bounds", "slide")


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

    def counts(self, qupath: bool) -> bool:
        """Whether the corner is to be added to what a file says."""
        return self.said == "bounds" or (qupath and self.said != "slide")


def origin_of(row: Row, corner: tuple[int, int]) -> Origin:
    """What the column annotation_origin of a slide says, for a slide whose scanned part begins at
    `corner`.

    Raises:
      UserError: it says something else than bounds or slide.
    """
    said = row.extra.get(COLUMN) or row.tags.get(COLUMN, "")
    if said not in CHOICES:
        raise UserError(
            f"Slide {row.file} has {COLUMN}='{said}'; write bounds (coordinates begin at the scanned part, as QuPath "
            "writes them), slide (at the corner of the whole slide), or nothing."
        )
    return Origin(*corner, said)
