"""Cuts one slide into tiles: what each worker process of data_prep.slides does."""

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from data_prep.annotations import Polygon, draw_mask, read_geojson
from data_prep.classes import ClassPlan
from data_prep.reader import BLOCK, SlideReader
from data_prep.table import Row
from data_prep.thumbnail import draw_thumbnail
from data_prep.tiling import Position, blocks, grid
from data_prep.tissue import mean_in_boxes, tissue_mask
from stedm_jax.data.schema import VOID, Tile
from stedm_jax.errors import UserError

SOURCE_BLOCK = 2048
"""Most source pixels along a side that are held at once, unless a single tile needs more."""


@dataclass(frozen=True)
class SlideJob:
    """One slide to cut; paths are complete, `number` seeds the choice of tiles."""

    row: Row
    path: Path
    annotations: tuple[Path, ...]
    slide_mpp: float | None
    fallback_mpp: float | None
    number: int


@dataclass(frozen=True)
class Settings:
    """What holds for all slides; see the options of data_prep.slides."""

    mpp: float
    tile: int
    stride: int
    min_tissue: float
    max_tiles: int
    seed: int
    plan: ClassPlan
    spool: Path
    thumbnails: Path


@dataclass
class SlideReport:
    """What became of a slide; a line of report.jsonl."""

    slide: str
    patient: str
    split: str
    error: str = ""
    mpp: float = 0.0
    level: int = 0
    size: tuple[int, int] = (0, 0)
    tissue_share: float = 0.0
    grid: int = 0
    on_tissue: int = 0
    unlabelled: int = 0
    not_chosen: int = 0
    tiles: int = 0
    polygons: int = 0
    passed_over: int = 0
    labelled_pixels: dict[str, int] = field(default_factory=dict)


def overview_mpp(size: tuple[int, int], slide_mpp: float, settings: Settings) -> float:
    """Microns per pixel of the overview: 32 pixels a tile, the longer side at least 1024 and at most 4096."""
    extent = max(size) * slide_mpp
    return max(settings.mpp, min(settings.tile * settings.mpp / 32, extent / 1024), extent / 4096)


def _load_polygons(job: SlideJob, report: SlideReport) -> list[Polygon]:
    if job.row.split == "style":
        return []
    found = [read_geojson(path) for path in job.annotations]
    polygons = [polygon for annotation in found for polygon in annotation.polygons]
    report.polygons, report.passed_over = len(polygons), sum(annotation.passed_over for annotation in found)
    if not polygons:
        names = ", ".join(path.name for path in job.annotations)
        raise UserError(
            f"The annotation {names} of slide {job.row.file} holds no polygon with a class; annotate "
            "the slide, "
            "or give it the split 'style'."
        )
    return sorted(polygons, key=lambda polygon: -polygon.area)


def _mask(
    job: SlideJob, settings: Settings, polygons: list[Polygon], box: tuple[int, int, int, int], factor: float
) -> UInt8[np.ndarray, "h w"]:
    if job.row.split == "style":
        return np.full(box[2:], VOID, np.uint8)
    return draw_mask(polygons, settings.plan.ids, box, factor, settings.plan.outside)


def cut_slide(job: SlideJob, settings: Settings) -> SlideReport:
    """Cuts a slide; images and masks go to SPOOL/<number>-*, for the parent to write.

    Returns:
      The report. A UserError is told there, so that one bad slide stops no other.
    """
    cv2.setNumThreads(0)
    report = SlideReport(job.row.file, job.row.patient, job.row.split)
    try:
        with SlideReader(job.path, job.slide_mpp, job.fallback_mpp) as slide:
            _cut(job, settings, slide, report)
    except UserError as error:
        report.error, report.tiles = str(error), 0
    return report


def _cut(job: SlideJob, settings: Settings, slide: SlideReader, report: SlideReport) -> None:
    tile, plan, factor = settings.tile, settings.plan, settings.mpp / slide.mpp
    report.mpp, report.level, report.size = slide.mpp, slide.level(settings.mpp), slide.size
    positions = grid(slide.shape(settings.mpp), tile, settings.stride)
    report.grid = len(positions)
    if not positions:
        raise UserError(
            f"Slide {job.row.file} is {slide.size[0]}x{slide.size[1]} pixels of {slide.mpp:g} um, "
            "smaller than one "
            f"tile of {tile} pixels at {settings.mpp:g} um; set a smaller --tile."
        )
    polygons = _load_polygons(job, report)
    coarse = overview_mpp(slide.size, slide.mpp, settings)
    overview = slide.overview(coarse)
    tissue = tissue_mask(overview, coarse)
    report.tissue_share = round(float(tissue.mean()), 4)
    boxes = np.array([(y, x, tile, tile) for y, x in positions])
    shares = mean_in_boxes(tissue, boxes, settings.mpp / coarse)
    kept = [position for position, share in zip(positions, shares, strict=True) if share >= settings.min_tissue]
    report.on_tissue = len(kept)
    labelled = _labelled(job, settings, polygons, kept, factor, report)
    _spool(job, settings, slide, polygons, labelled, report)
    report.tiles = len(labelled)
    colors = {name: plan.classes[i].color for name, i in plan.ids.items() if i < len(plan.classes)}
    scales = (slide.mpp / coarse, settings.mpp / coarse)
    picture = draw_thumbnail(overview, tissue, polygons, colors, labelled, tile, scales)
    name = Path(job.row.file).with_suffix(".png").as_posix().replace("/", "_")
    if not cv2.imwrite(str(settings.thumbnails / name), picture):
        raise OSError(errno.EIO, "the thumbnail could not be written", str(settings.thumbnails / name))
    if not labelled:
        raise UserError(
            f"Slide {job.row.file} gives no tile: {report.grid} in the grid, {report.on_tissue} on tissue, "
            f"{report.unlabelled} of these without a label. Look at its thumbnail; lower --min_tissue "
            "or --tile, or "
            "check that the annotation belongs to the slide."
        )


def _labelled(
    job: SlideJob,
    settings: Settings,
    polygons: list[Polygon],
    kept: list[Position],
    factor: float,
    report: SlideReport,
) -> list[Position]:
    """Leaves out tiles without a label, but not of style slides; of the others, at most --max_tiles."""
    tile, found = settings.tile, kept
    if job.row.split != "style":
        found = []
        for box, members in blocks(kept, tile, BLOCK):
            mask = _mask(job, settings, polygons, box, factor)
            found += [(y, x) for y, x in members if np.any(mask[y - box[0] :, x - box[1] :][:tile, :tile] != VOID)]
    report.unlabelled = len(kept) - len(found)
    if settings.max_tiles and len(found) > settings.max_tiles:
        rng = np.random.default_rng((settings.seed, job.number))
        picked = np.sort(rng.permutation(len(found))[: settings.max_tiles])
        report.not_chosen = len(found) - len(picked)
        found = [found[i] for i in picked]
    return found


def _files(job: SlideJob, settings: Settings) -> dict[str, Path]:
    return {kind: settings.spool / f"{job.number}-{kind}" for kind in ("images", "masks", "places")}


def _spool(
    job: SlideJob,
    settings: Settings,
    slide: SlideReader,
    polygons: list[Polygon],
    positions: list[Position],
    report: SlideReport,
) -> None:
    """Reads images and draws masks block by block, and writes them out, so that memory stays small."""
    tile, factor, files = settings.tile, settings.mpp / slide.mpp, _files(job, settings)
    ratio = settings.mpp / slide.level_mpp(slide.level(settings.mpp))
    counts, order = np.zeros(256, np.int64), []
    with files["images"].open("wb") as images, files["masks"].open("wb") as masks:
        for box, members in blocks(positions, tile, min(BLOCK, int(SOURCE_BLOCK / ratio))):
            image = slide.read(settings.mpp, *box)
            mask = _mask(job, settings, polygons, box, factor)
            for y, x in members:
                part = np.s_[y - box[0] : y - box[0] + tile, x - box[1] : x - box[1] + tile]
                images.write(image[part].tobytes())
                masks.write(mask[part].tobytes())
                counts += np.bincount(mask[part].ravel(), minlength=256)
            order += members
    files["places"].write_text(json.dumps(order))
    report.labelled_pixels = {spec.name: int(counts[i]) for i, spec in enumerate(settings.plan.classes)}


def spooled_tiles(job: SlideJob, settings: Settings, report: SlideReport) -> Iterator[Tile]:
    """The tiles that a worker left on disk for a slide, block by block; removes the files."""
    files, tile = _files(job, settings), settings.tile
    if report.tiles:
        images = np.memmap(files["images"], np.uint8, "r", shape=(report.tiles, tile, tile, 3))
        masks = np.memmap(files["masks"], np.uint8, "r", shape=(report.tiles, tile, tile))
        factor = settings.mpp / report.mpp
        for i, (y, x) in enumerate(json.loads(files["places"].read_text())):
            yield Tile(
                image=np.array(images[i]),
                mask=np.array(masks[i]),
                patient=job.row.patient,
                slide=job.row.file,
                split=job.row.split,
                x=round(x * factor),
                y=round(y * factor),
                level=report.level,
                mpp=settings.mpp,
                tags=job.row.tags,
            )
    for file in files.values():
        file.unlink(missing_ok=True)
