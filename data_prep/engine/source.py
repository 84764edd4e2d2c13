"""What a job is cut from: pixels and labels at the resolution of its tiles, in boxes that may go
beyond the slide."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from data_prep.annotations import Annotation, Polygon, draw_mask, load_annotation, origin_of
from data_prep.annotations.repair import OUTSIDE
from data_prep.engine.job import Job, MaskFile, PolygonFiles, SlideReport, Task
from data_prep.image_with_mask import Picture, fit_picture, scale_picture
from data_prep.tile_grid import Box
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.label_file import read_mask
from stedm_jax.imaging.open_slide import open_slide, read_whole
from stedm_jax.imaging.reader import SlideReader
from stedm_jax.imaging.slide import Slide, mirrored

Image = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w"]
Flags = Bool[np.ndarray, "h w"]
ALIKE = 0.02
"""By how much two sources of microns may differ that say the same."""
SOURCE_BLOCK, BLOCK = 2048, 1024
"""Most source pixels, and most pixels of tiles, along a side that are held at once, unless a tile
needs more."""


class Source(ABC):
    """A slide or picture at the resolution of its tiles.

    Attributes:
      size: width and height of level 0.
      shape: rows and columns at the resolution of the tiles.
      factor: level-0 pixels for each pixel of a tile.
      level: that is read.
      block: most pixels of tiles along a side to read at once.
      polygons: of the annotation, the regions of interest among them; () where labels are no
        polygons.
      regions: names and polygons of the regions of interest.
    """

    size: tuple[int, int]
    shape: tuple[int, int]
    factor: float
    level: int = 0
    block: int = BLOCK
    polygons: tuple[Polygon, ...] = ()
    regions: tuple[tuple[str, Polygon], ...] = ()

    @abstractmethod
    def read(self, box: Box) -> Image:
        """Pixels in a box y, x, height, width."""

    @abstractmethod
    def labels(self, box: Box, step: float = 1.0) -> Mask:
        """Class ids in a box, VOID beyond the slide; with a step, everything in pixels that are so
        much larger."""

    @abstractmethod
    def withheld(self, box: Box) -> Flags:
        """Where the annotation says that there is no label (--void), in a box."""

    @abstractmethod
    def overview(self, step: float) -> Image:
        """All of it, in pixels that are `step` times as large as those of the tiles."""

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""


def open_source(task: Task, report: SlideReport) -> Source:
    """Opens what a task is cut from, and reports what was found.

    Raises:
      UserError: slide, annotation, image or mask are unusable.
    """
    return (PictureSource if task.job.is_picture else SlideSource)(task, report)


class SlideSource(Source):
    """A slide and its polygons; see open_source."""

    def __init__(self, task: Task, report: SlideReport):
        job, rules = task.job, task.rules
        self._task = task
        reader = open_slide(job.path)
        try:
            annotation = self._annotation(reader)
        except BaseException:
            reader.close()
            raise
        fit = rules.tile if rules.fit else 0
        self._slide = Slide(job.path, job.mpp, annotation.mpp, job.fallback_mpp, fit, reader)
        try:
            self._measure(report)
            _note_others(report, reader)
            self._find_polygons(annotation, report)
            if not rules.fit:
                _note_microns(report, job, annotation.mpp, reader.mpp)
                _check_microns(job, annotation.mpp, reader.mpp)
        except BaseException:
            self._slide.close()
            raise

    def _annotation(self, reader: SlideReader) -> Annotation:
        """The annotation; of a slide of the split style only where it may say the microns."""
        job = self._task.job
        wanted = self._task.labeled or (job.mpp is None and reader.mpp is None)
        if not isinstance(job.labels, PolygonFiles) or not wanted:
            return Annotation(())
        origin = origin_of(job.row, reader.origin)
        return load_annotation(job.labels.paths, job.labels.slide, reader.level_sizes[0], origin)

    def _measure(self, report: SlideReport) -> None:
        rules, slide = self._task.rules, self._slide
        self._mpp = 1.0 if rules.fit else rules.mpp
        self.size, self.shape, self.level = (
            slide.size,
            slide.shape(self._mpp),
            slide.level(self._mpp),
        )
        self.factor = self._mpp / slide.mpp
        self.block = min(BLOCK, int(SOURCE_BLOCK / slide.ratio(self._mpp)))
        report.mpp, report.level, report.size = slide.mpp, self.level, slide.size

    def _find_polygons(self, annotation: Annotation, report: SlideReport) -> None:
        job, rules = self._task.job, self._task.rules
        if self._task.labeled:
            self.polygons = annotation.polygons
        report.polygons, report.passed_over = len(self.polygons), dict(annotation.passed)
        report.left_out = [note for note in annotation.left_out if OUTSIDE not in note]
        report.warnings = [note for note in annotation.left_out if OUTSIDE in note]
        if self._task.labeled and isinstance(job.labels, PolygonFiles) and not self.polygons:
            passed = [f"{count} {kind}" for kind, count in annotation.passed.items()]
            notes = "; ".join([*passed, *annotation.left_out[:3]])
            raise UserError(
                f"The annotation {', '.join(path.name for path in job.labels.paths)} of slide "
                f"{job.row.file} holds no polygon with a class; annotate the slide, or give it the "
                f"split 'style'.{f' Left out were: {notes}.' if notes else ''}"
            )
        self.regions = _name_regions([each for each in self.polygons if each.name in rules.rois])
        self._drawn = [each for each in self.polygons if each.name not in rules.rois]
        if self._task.labeled and rules.rois and not self.regions:
            raise UserError(
                f"The annotation of slide {job.row.file} has no region of interest: no polygon is "
                f"named {' or '.join(rules.rois)}, as --rois says. Draw one, or give the slide the "
                "split 'style'."
            )

    def read(self, box: Box) -> Image:
        """See Source."""
        return self._slide.read(self._mpp, *box)

    def labels(self, box: Box, step: float = 1.0) -> Mask:
        """See Source."""
        plan, rois = self._task.plan, self._task.rules.rois
        if not self._task.labeled:
            return np.full(box[2:], VOID, np.uint8)
        regions = [polygon for _, polygon in self.regions]
        mask = draw_mask(
            self._drawn,
            plan.ids,
            box,
            self.factor * step,
            outside=VOID if rois else plan.outside,
            regions=regions,
            inside=plan.background,
        )
        rows, columns = (int(side / step) for side in self.shape)
        y, x = (np.arange(at, at + count) for at, count in zip(box[:2], box[2:], strict=True))
        mask[(y < 0) | (y >= rows)] = VOID
        mask[:, (x < 0) | (x >= columns)] = VOID
        return mask

    def withheld(self, box: Box) -> Flags:
        """See Source."""
        ids = {name: int(number == VOID) for name, number in self._task.plan.ids.items()}
        return draw_mask(self._drawn, ids, box, self.factor, 0) == 1

    def overview(self, step: float) -> Image:
        """See Source."""
        return self._slide.overview(self._mpp * step)

    def close(self) -> None:
        """See Source."""
        self._slide.close()


def _note_others(report: SlideReport, reader: SlideReader) -> None:
    """Notes pictures of a file that are not read, such as a second page."""
    if reader.beside:
        sizes = ", ".join(f"{width}x{height}" for width, height in reader.beside)
        report.left_out.append(
            f"Pages: the file holds {len(reader.beside)} other pictures ({sizes} pixels), which "
            "are not read; save one that is meant as a file of its own."
        )


def _note_microns(
    report: SlideReport, job: Job, annotation: float | None, slide: float | None
) -> None:
    """Notes which source gave the microns per pixel, and which disagrees."""
    said = {"table": job.mpp, "slide": slide, "annotation": annotation}
    said["--slide_mpp"] = job.fallback_mpp
    report.mpp_from = next((source for source, mpp in said.items() if mpp is not None), "")
    if report.mpp_from == "--slide_mpp":
        report.fallback_mpp = job.fallback_mpp
    if job.mpp is not None and slide is not None and abs(job.mpp / slide - 1) > 0.1:
        report.left_out.append(
            f"Microns: the table says {job.mpp:g} um a pixel and the slide {slide:g}; the table "
            "counts."
        )


def _check_microns(job: Job, annotation: float | None, slide: float | None) -> None:
    """Refuses an annotation that is of another resolution than its slide, unless the table says
    which it is."""
    other, mpp = ("--slide_mpp", job.fallback_mpp) if slide is None else ("the slide", slide)
    if job.mpp is None and annotation and mpp and abs(annotation / mpp - 1) > ALIKE:
        raise UserError(
            f"The annotation of slide {job.row.file} says {annotation:g} um a pixel, and {other} "
            f"says {mpp:g}: it may be the annotation of another slide. Look at both, and give the "
            "right value in the column mpp of the table."
        )


def _name_regions(polygons: Sequence[Polygon]) -> tuple[tuple[str, Polygon], ...]:
    """Regions with names of their own, from top to bottom: ROI, or ROI-1 and ROI-2."""
    ordered = sorted(polygons, key=lambda polygon: (polygon.name, polygon.box[1], polygon.box[0]))
    counts, seen = Counter(polygon.name for polygon in ordered), Counter()
    named = []
    for polygon in ordered:
        name = polygon.name
        seen[name] += 1
        named.append((f"{name}-{seen[name]}" if counts[name] > 1 else name, polygon))
    return tuple(named)


class PictureSource(Source):
    """An image and its mask, read as a whole; beyond its border it is mirrored. See open_source."""

    def __init__(self, task: Task, report: SlideReport):
        job, rules = task.job, task.rules
        reader = open_slide(job.path)
        try:
            pixels = read_whole(reader)
            _note_others(report, reader)
        finally:
            reader.close()
        self.size = report.size = (pixels.shape[1], pixels.shape[0])
        if isinstance(job.labels, MaskFile) and task.labeled:
            mask = read_labels(job.labels, len(task.plan.classes), pixels.shape[:2])
            for left, top, right, bottom in job.earlier:
                mask[top:bottom, left:right] = VOID
        else:
            mask = np.full(pixels.shape[:2], VOID, np.uint8)
        picture = Picture(pixels, mask)
        said = (mpp for mpp in (job.mpp, job.fallback_mpp, rules.mpp) if mpp is not None)
        report.mpp = next(said)
        self.factor = rules.mpp / report.mpp
        if rules.fit:
            self.factor = min(self.size) / rules.tile
            picture = fit_picture(picture, rules.tile)
        elif self.factor < 0.99:
            raise UserError(
                f"Image {job.row.file} has {report.mpp:g} um per pixel and cannot give "
                f"{rules.mpp:g}; set --mpp to at least {report.mpp:g}."
            )
        elif abs(self.factor - 1) < 0.01:
            self.factor = 1.0
        else:
            picture = scale_picture(picture, self.factor)
        self._picture, self.shape = picture, picture.mask.shape

    def read(self, box: Box) -> Image:
        """See Source."""
        y, x, height, width = box
        rows, columns = mirrored(y, height, self.shape[0]), mirrored(x, width, self.shape[1])
        return self._picture.image[np.ix_(rows, columns)]

    def labels(self, box: Box, step: float = 1.0) -> Mask:
        """See Source."""
        y, x, height, width = box
        whole = round(step)
        mask = self._picture.mask[whole // 2 :: whole, whole // 2 :: whole]
        inside = mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
        found = np.full((height, width), VOID, np.uint8)
        top, left = max(-y, 0), max(-x, 0)
        found[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return found

    def withheld(self, box: Box) -> Flags:
        """See Source."""
        return self.labels(box) == VOID

    def overview(self, step: float) -> Image:
        """See Source."""
        return self._picture.image if step == 1 else scale_picture(self._picture, step).image

    def close(self) -> None:
        """See Source."""


def read_labels(labels: MaskFile, classes: int, shape: tuple[int, ...]) -> Mask:
    """Class ids of a mask file.

    Args:
      labels: the file.
      classes: how many there are.
      shape: rows and columns of the image.

    Raises:
      UserError: it is unreadable, of another size, or holds what is no class.
    """
    if labels.decode is not None:
        mask = np.asarray(labels.decode(labels.path))
        if mask.dtype != np.uint8 or mask.ndim != 2:
            raise ValueError(f"{labels.decode} gave {mask.dtype} {mask.shape} for {labels.path}")
    else:
        values = labels.values if labels.values is not None else tuple(range(classes))
        mask = read_mask(labels.path, values, labels.void)
    if mask.shape != shape:
        raise UserError(
            f"The mask {labels.path} is {mask.shape[1]}x{mask.shape[0]} pixels, its image "
            f"{shape[1]}x{shape[0]}; give a mask of the same size."
        )
    return mask


def region_of(regions: Sequence[tuple[str, Polygon]], box: Box, factor: float) -> str:
    """The region that has most of a box, in pixels of tiles; "" if none has any."""
    y, x, height, width = box
    step = max(min(height, width) / 16, 1.0)
    coarse = (int(y / step), int(x / step), max(int(height / step), 1), max(int(width / step), 1))
    best, most = "", 0
    for name, polygon in regions:
        mask = draw_mask([polygon], {polygon.name: 1}, coarse, factor * step, 0)
        found = int(np.count_nonzero(mask))
        if found > most:
            best, most = name, found
    return best
