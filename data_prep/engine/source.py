"""What a job is cut from: pixels and labels at the resolution of its tiles, in boxes that may go
beyond the slide."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from data_prep.annotations import Annotation, Polygon, draw_mask, load_annotation, origin_of
from data_prep.annotations.repair import OUTSIDE
from data_prep.class_plan import ClassPlan
from data_prep.engine.job import CutRules, Job, MaskFile, PolygonFiles, SlideReport
from data_prep.images import Picture, fit_picture, join_picture, scale_picture
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.label_file import read_colored_mask, read_mask
from stedm_jax.imaging.open_slide import open_slide, read_image
from stedm_jax.imaging.reader import SlideReader
from stedm_jax.imaging.slide import Slide, mirrored

Box = tuple[int, int, int, int]
SOURCE_BLOCK, BLOCK = 2048, 1024
"""Most source pixels, and most pixels of tiles, along a side that are held at once, unless a tile
needs more."""


@runtime_checkable
class Source(Protocol):
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
    level: int
    block: int
    polygons: tuple[Polygon, ...]
    regions: tuple[tuple[str, Polygon], ...]

    def read(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Pixels in a box y, x, height, width."""
        ...

    def labels(self, box: Box, step: float = 1.0) -> UInt8[np.ndarray, "h w"]:
        """Class ids in a box, VOID beyond the slide; with a step, everything in pixels that are so
        much larger."""
        ...

    def withheld(self, box: Box) -> Bool[np.ndarray, "h w"]:
        """Where somebody said that there is no label (--void), in a box."""
        ...

    def overview(self, step: float) -> UInt8[np.ndarray, "h w 3"]:
        """All of it, in pixels that are `step` times as large as those of the tiles."""
        ...

    def close(self) -> None:
        """Closes the files."""
        ...


class SlideSource:
    """A slide and its polygons.

    Args:
      job, plan, rules: what to open and how to cut it.
      report: gets what was found.

    Raises:
      UserError: slide or annotation are unusable.
    """

    def __init__(self, job: Job, plan: ClassPlan, rules: CutRules, report: SlideReport):
        self._plan, self._rules, self._drawn = (
            plan,
            rules,
            job.labels is not None and job.row.split != "style",
        )
        annotation = Annotation(())
        reader = open_slide(job.path)
        wanted = self._drawn or (
            job.mpp is None and reader.mpp is None
        )  # one of the split style: for microns only
        if isinstance(job.labels, PolygonFiles) and wanted:
            annotation = _annotation(job, job.labels, reader)
        self._slide = Slide(
            job.path,
            job.mpp,
            annotation.mpp,
            job.fallback_mpp,
            rules.tile if rules.fit else 0,
            reader,
        )
        try:
            self._set(job, annotation, report)
            _tell_microns(report, job, job.mpp, annotation.mpp, reader.mpp, fit=rules.fit)
        except BaseException:
            self._slide.close()
            raise

    def _set(self, job: Job, annotation: Annotation, report: SlideReport) -> None:
        rules, slide = self._rules, self._slide
        self._mpp = 1.0 if rules.fit else rules.mpp
        self.size, self.level = slide.size, slide.level(self._mpp)
        self.factor = self._mpp / slide.mpp
        report.mpp, report.level, report.size = slide.mpp, self.level, slide.size
        self.shape = slide.shape(self._mpp)
        self.block = min(BLOCK, int(SOURCE_BLOCK / slide.ratio(self._mpp)))
        self.polygons = tuple(annotation.polygons) if self._drawn else ()
        report.polygons, report.passed_over = len(self.polygons), annotation.passed_over
        report.left_out = [note for note in annotation.left_out if OUTSIDE not in note]
        report.warnings = [note for note in annotation.left_out if OUTSIDE in note]
        if self._drawn and isinstance(job.labels, PolygonFiles) and not self.polygons:
            _refuse_empty(job, job.labels.paths, annotation)
        self.regions = _name_regions(
            [polygon for polygon in self.polygons if polygon.name in rules.rois]
        )
        self._inside = (
            self.polygons
            if not rules.rois
            else [p for p in self.polygons if p.name not in rules.rois]
        )
        if self._drawn and rules.rois and not self.regions:
            raise UserError(
                f"The annotation of slide {job.row.file} has no region of interest: no polygon is named "
                f"{' or '.join(rules.rois)}, as --rois says. Draw one, or give the slide the split 'style'."
            )

    def read(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """See Source."""
        return self._slide.read(self._mpp, *box)

    def labels(self, box: Box, step: float = 1.0) -> UInt8[np.ndarray, "h w"]:
        """See Source."""
        shape = (int(self.shape[0] / step), int(self.shape[1] / step)) if step != 1 else self.shape
        plan = self._plan
        if not self._drawn:
            return np.full(box[2:], VOID, np.uint8)
        regions = {}
        if self._rules.rois:
            regions = {
                "regions": [polygon for _, polygon in self.regions],
                "inside": plan.background,
            }
        outside = VOID if self._rules.rois else plan.outside
        mask = draw_mask(self._inside, plan.ids, box, self.factor * step, outside, **regions)
        return _void_beyond(mask, box, shape)

    def withheld(self, box: Box) -> Bool[np.ndarray, "h w"]:
        """See Source."""
        ids = {name: int(number == VOID) for name, number in self._plan.ids.items()}
        return draw_mask(self._inside if self._drawn else (), ids, box, self.factor, 0) == 1

    def overview(self, step: float) -> UInt8[np.ndarray, "h w 3"]:
        """See Source."""
        return self._slide.overview(self._mpp * step)

    def close(self) -> None:
        """See Source."""
        self._slide.close()


def _annotation(job: Job, labels: PolygonFiles, reader: SlideReader) -> Annotation:
    """The annotation of an opened slide, which is closed if there is none that can be read."""
    try:
        origin = origin_of(job.row, reader.origin)
        return load_annotation(labels.paths, labels.slide, reader.level_sizes[0], origin)
    except BaseException:
        reader.close()
        raise


def _tell_microns(
    report: SlideReport,
    job: Job,
    table: float | None,
    annotation: float | None,
    slide: float | None,
    fit: bool,
) -> None:
    """Notes who said how large a pixel is, and who disagrees."""
    if fit:
        return
    said = {
        "table": table,
        "slide": slide,
        "annotation": annotation,
        "--slide_mpp": job.fallback_mpp,
    }
    report.mpp_from = next((who for who, mpp in said.items() if mpp is not None), "")
    report.fallback_mpp = job.fallback_mpp if report.mpp_from == "--slide_mpp" else None
    if table is not None and slide is not None and abs(table / slide - 1) > 0.1:
        report.left_out.append(
            f"Microns: the table says {table:g} um a pixel and the slide {slide:g}; the table counts."
        )


def _refuse_empty(job: Job, paths: Sequence[Path], annotation: Annotation) -> None:
    names = ", ".join(path.name for path in paths)
    why = f" Left out were: {'; '.join(annotation.left_out[:3])}." if annotation.left_out else ""
    raise UserError(
        f"The annotation {names} of slide {job.row.file} holds no polygon with a class; annotate the slide, or give "
        f"it the split 'style'.{why}"
    )


def _name_regions(polygons: Sequence[Polygon]) -> tuple[tuple[str, Polygon], ...]:
    """Regions with names of their own, from top to bottom: ROI, or ROI-1 and ROI-2."""
    ordered = sorted(polygons, key=lambda polygon: (polygon.name, polygon.box[1], polygon.box[0]))
    counts = {name: sum(p.name == name for p in ordered) for name in {p.name for p in ordered}}
    seen: dict[str, int] = {}
    named = []
    for polygon in ordered:
        seen[polygon.name] = seen.get(polygon.name, 0) + 1
        several = counts[polygon.name] > 1
        named.append((f"{polygon.name}-{seen[polygon.name]}" if several else polygon.name, polygon))
    return tuple(named)


def _void_beyond(
    mask: UInt8[np.ndarray, "h w"], box: Box, shape: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    y, x, height, width = box
    mask[: max(-y, 0)] = VOID
    mask[:, : max(-x, 0)] = VOID
    if y + height > shape[0]:
        mask[max(shape[0] - y, 0) :] = VOID
    if x + width > shape[1]:
        mask[:, max(shape[1] - x, 0) :] = VOID
    return mask


class PictureSource:
    """An image and its mask, read as a whole; beyond its border it is mirrored.

    Args:
      job, plan, rules: what to open and how to cut it.
      report: gets what was found.

    Raises:
      UserError: image or mask are unusable, or coarser than the tiles are to be.
    """

    def __init__(self, job: Job, plan: ClassPlan, rules: CutRules, report: SlideReport):
        pixels = read_image(job.path)
        self.size = (pixels.shape[1], pixels.shape[0])
        self.level, self.block = 0, BLOCK
        self.polygons: tuple[Polygon, ...] = ()
        self.regions: tuple[tuple[str, Polygon], ...] = ()
        report.size = self.size
        if isinstance(job.labels, MaskFile) and job.row.split != "style":
            labels = read_labels(job.labels, len(plan.classes))
            picture = join_picture(job.path, pixels, job.labels.path, labels)
        else:
            picture = Picture(pixels, np.full(pixels.shape[:2], VOID, np.uint8))
        own = job.mpp if job.mpp is not None else job.fallback_mpp
        report.mpp = own if own is not None else rules.mpp
        self.factor = self._ratio(job, rules, report.mpp)
        if rules.fit:
            picture = fit_picture(picture, rules.tile)
        elif self.factor != 1:
            picture = scale_picture(picture, self.factor)
        self._picture, self.shape = picture, picture.mask.shape

    def _ratio(self, job: Job, rules: CutRules, own: float) -> float:
        if rules.fit:
            return min(self.size) / rules.tile
        ratio = rules.mpp / own
        if ratio < 0.99:
            raise UserError(
                f"Image {job.row.file} has {own:g} um per pixel and cannot give {rules.mpp:g}; set --mpp to at least "
                f"{own:g}."
            )
        return 1.0 if abs(ratio - 1) < 0.01 else ratio

    def read(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """See Source."""
        y, x, height, width = box
        if min(y, x) >= 0 and y + height <= self.shape[0] and x + width <= self.shape[1]:
            return self._picture.image[y : y + height, x : x + width]
        rows, columns = mirrored(y, height, self.shape[0]), mirrored(x, width, self.shape[1])
        return self._picture.image[rows[:, None], columns[None, :]]

    def labels(self, box: Box, step: float = 1.0) -> UInt8[np.ndarray, "h w"]:
        """See Source."""
        y, x, height, width = box
        mask, whole = self._picture.mask, round(step)
        rows, columns = (
            np.arange(first, first + count) * whole + whole // 2
            for first, count in ((y, height), (x, width))
        )
        inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & (
            (columns >= 0) & (columns < mask.shape[1])
        )[None, :]
        rows, columns = (
            np.clip(at, 0, side - 1) for at, side in zip((rows, columns), mask.shape, strict=True)
        )
        return np.where(inside, mask[rows[:, None], columns[None, :]], np.uint8(VOID))

    def withheld(self, box: Box) -> Bool[np.ndarray, "h w"]:
        """See Source."""
        return self.labels(box) == VOID

    def overview(self, step: float) -> UInt8[np.ndarray, "h w 3"]:
        """See Source."""
        return self._picture.image if step == 1 else scale_picture(self._picture, step).image

    def close(self) -> None:
        """See Source."""


def read_labels(labels: MaskFile, classes: int) -> UInt8[np.ndarray, "h w"]:
    """Class ids of a mask file.

    Raises:
      UserError: it is unreadable, or holds what is no class.
    """
    if labels.decode is not None:
        mask = np.asarray(labels.decode(labels.path))
        if mask.dtype != np.uint8 or mask.ndim != 2:
            raise ValueError(f"{labels.decode} gave {mask.dtype} {mask.shape} for {labels.path}")
        return mask
    if labels.palette is not None:
        return read_colored_mask(
            labels.path, labels.palette, [each for each in labels.void if not isinstance(each, int)]
        )
    values = labels.values if labels.values is not None else tuple(range(classes))
    return read_mask(labels.path, values, [each for each in labels.void if isinstance(each, int)])


def region_of(regions: Sequence[tuple[str, Polygon]], box: Box, factor: float) -> str:
    """The region that has most of a box, in pixels of tiles; "" if none has any."""
    y, x, height, width = box
    step = max(min(height, width) / 16, 1.0)
    coarse = (int(y / step), int(x / step), max(int(height / step), 1), max(int(width / step), 1))
    best, most = "", 0
    for name, polygon in regions:
        x0, y0, x1, y1 = (value / factor for value in polygon.box)
        if x1 < x or y1 < y or x0 > x + width or y0 > y + height:
            continue
        ids: Mapping[str, int] = {polygon.name: 0}
        found = int(np.count_nonzero(draw_mask([polygon], ids, coarse, factor * step, VOID) == 0))
        if found > most:
            best, most = name, found
    return best


class opened:  # noqa: N801 - reads as a verb in a with statement
    """Opens the source of a job; a context manager."""

    def __init__(self, job: Job, plan: ClassPlan, rules: CutRules, report: SlideReport):
        kind = PictureSource if job.is_picture else SlideSource
        self.source: Source = kind(job, plan, rules, report)

    def __enter__(self) -> Source:
        return self.source

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.source.close()
