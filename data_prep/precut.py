"""Images that are tiles of slides: the columns slide, x and y of a table say where they were cut.

x and y are the upper left corner of the image in its slide, in pixels of the image, whatever the
resolution: a tile of 256 pixels beside one at x=0 has x=256.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.cohort_table import Row
from data_prep.engine.job import Job
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.as_shown import ORIENTATION, turned_size
from stedm_jax.imaging.image_file import opened

COLUMNS = ("slide", "x", "y")
EVERY_IMAGE = (
    "note: the table has no columns slide, x and y, so that every image counts as a slide of its "
    "own; if they are tiles of slides, add them (pixels of the image, see data_prep/README.md)"
)
SOME = 10
"""Most lines and files that a message names."""
Corners = tuple[int, int, int, int]
"""x and y of the upper left corner, x and y of the lower right one."""


def check_places(rows: Sequence[Row], table: Path) -> bool:
    """Whether the rows say where their images were cut: all of them, or none.

    Raises:
      UserError: a cell is empty or no whole number, or a slide is of two patients.
    """
    if not any(row.extra.get(column) for row in rows for column in COLUMNS):
        return False
    bare = [row.line for row in rows if not all(row.extra.get(column) for column in COLUMNS)]
    if bare:
        raise UserError(
            f"{table}: slide, x and y belong together; fill all three in, in the lines "
            f"{_some(bare)} (or name the column slide otherwise, and it becomes a tag)."
        )
    wrong = [row.line for row in rows if not all(_whole(row.extra[axis]) for axis in "xy")]
    if wrong:
        raise UserError(f"{table}: x and y must be whole numbers; not so in lines {_some(wrong)}.")
    owners: dict[str, Row] = {}
    for row in rows:
        other = owners.setdefault(row.extra["slide"], row)
        if other.patient != row.patient:
            raise UserError(
                f"{table}: slide '{row.extra['slide']}' is of patient '{other.patient}' in line "
                f"{other.line} and of '{row.patient}' in line {row.line}; correct one of them."
            )
    return True


def place_jobs(jobs: Sequence[Job], errors: Mapping[int, str]) -> list[Job]:
    """Jobs with their places in their slides. Those of val and test that overlap know which part of
    them others have, so that no pixel counts twice; what others cover wholly is left out, which is
    said.

    Args:
      jobs: of rows that check_places accepts.
      errors: by number, what is wrong with a job; it takes nothing from others.

    Raises:
      UserError: images of a slide have different microns per pixel.
    """
    placed = [_placed(job) for job in jobs]
    slides: dict[str, list[Job]] = {}
    for job in placed:
        slides.setdefault(job.slide, []).append(job)
    earlier: dict[int, tuple[Corners, ...]] = {}
    for slide, group in slides.items():
        if len({job.mpp for job in group}) > 1:
            raise UserError(
                f"The images of slide '{slide}' have different microns per pixel, so that x and y "
                "of the table mean different things; give each resolution a slide of its own."
            )
        if group[0].row.split in ("val", "test"):
            earlier |= _overlaps([job for job in group if job.number not in errors])
    covered = [job for job in placed if earlier.get(job.number) == ()]
    shared = sum(bool(boxes) for boxes in earlier.values())
    if shared or covered:
        print(f"{shared} images of val and test overlap others of their slide; pixels count once")
    if covered:
        names = _some([job.key for job in covered])
        print(f"{len(covered)} that others cover wholly are left out: {names}")
    return [
        replace(job, earlier=earlier.get(job.number, ())) for job in placed if job not in covered
    ]


def _placed(job: Job) -> Job:
    x, y = (int(float(job.row.extra[axis])) for axis in "xy")
    return replace(job, slide=job.row.extra["slide"], offset=(x, y))


def _overlaps(jobs: Sequence[Job]) -> dict[int, tuple[Corners, ...]]:
    """By number of the job, the parts of its image that jobs before it have, by rows of the slide;
    () where they have all of it. Jobs that share nothing are left out."""
    found: dict[int, tuple[Corners, ...]] = {}
    before: list[tuple[int, int, int, int]] = []
    for job in sorted(jobs, key=lambda job: (job.offset[1], job.offset[0], job.number)):
        size = _size(job.path)
        if size is None:
            continue
        (x, y), (width, height) = job.offset, size
        before = [box for box in before if box[3] > y]
        near = [box for box in before if box[0] < x + width and box[2] > x]
        parts = tuple(
            (max(x0 - x, 0), max(y0 - y, 0), min(x1 - x, width), min(y1 - y, height))
            for x0, y0, x1, y1 in near
        )
        if parts:
            free = np.ones((height, width), np.bool_)
            for left, top, right, bottom in parts:
                free[top:bottom, left:right] = False
            found[job.number] = parts if free.any() else ()
        before.append((x, y, x + width, y + height))
    return found


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image as shown; None where it cannot be read, which is said when it
    is cut."""
    try:
        with opened(path) as image:
            return turned_size(image.getexif().get(ORIENTATION, 1), image.size)
    except UserError:
        return None


def _whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except (ValueError, OverflowError):
        return False


def _some(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:SOME])) + (" and more" if len(items) > SOME else "")
