"""Cuts one slide into tiles: what each worker process of data_prep.slides does."""

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
    """Microns per pixel of the overview: 32 pixels a tile, the longer side 1024 to 4096 pixels if it has them."""
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
            f"The annotation {names} of slide {job.row.file} holds no polygon with a class; annotate the slide, "
            "or give it the split 'style'."
        )
    return sorted(polygons, key=lambda polygon: -polygon.area)


def _masks(
    job: SlideJob, settings: Settings, polygons: list[Polygon], positions: list[Position], factor: float
) -> Iterator[tuple[Position, UInt8[np.ndarray, "t t"]]]:
    tile, plan = settings.tile, settings.plan
    if job.row.split == "style":
        for position in positions:
            yield position, np.full((tile, tile), VOID, np.uint8)
        return
    for box, members in blocks(positions, tile, BLOCK):
        mask = draw_mask(polygons, plan.ids, box, factor, plan.outside)
        for y, x in members:
            yield (y, x), mask[y - box[0] :, x - box[1] :][:tile, :tile]


def cut_slide(job: SlideJob, settings: Settings) -> SlideReport:
    """Cuts a slide; images and masks go to SPOOL/<number>-*.npy, for the parent to write.

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
            f"Slide {job.row.file} is {slide.size[0]}x{slide.size[1]} pixels of {slide.mpp:g} um, smaller than one "
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
    labelled = _label(job, settings, polygons, kept, factor, report)
    _read_images(job, settings, slide, labelled)
    report.tiles = len(labelled)
    colors = {name: plan.classes[i].color for name, i in plan.ids.items() if i < len(plan.classes)}
    scales = (slide.mpp / coarse, settings.mpp / coarse)
    picture = draw_thumbnail(overview, tissue, polygons, colors, labelled, tile, scales)
    cv2.imwrite(str(settings.thumbnails / f"{Path(job.row.file).stem}.png"), picture)
    if not labelled:
        raise UserError(
            f"Slide {job.row.file} gives no tile: {report.grid} in the grid, {report.on_tissue} on tissue, "
            f"{report.unlabelled} of these without a label. Look at its thumbnail; lower --min_tissue or --tile, or "
            "check that the annotation belongs to the slide."
        )


def _label(
    job: SlideJob, settings: Settings, polygons: list[Polygon], kept: list[Position], factor: float,
    report: SlideReport,
) -> list[Position]:  # fmt: skip
    """Draws the masks, leaves out tiles without a label, and chooses at most --max_tiles of the others."""
    spool = np.lib.format.open_memmap(
        settings.spool / f"{job.number}-masks.npy", "w+", np.uint8, (len(kept), settings.tile, settings.tile)
    ) if kept else np.empty((0, settings.tile, settings.tile), np.uint8)  # fmt: skip
    found: dict[Position, UInt8[np.ndarray, "t t"]] = {}
    counts = np.zeros(256, np.int64)
    for position, mask in _masks(job, settings, polygons, kept, factor):
        if job.row.split != "style" and np.all(mask == VOID):
            report.unlabelled += 1
            continue
        spool[len(found)] = mask
        found[position] = spool[len(found)]
    if settings.max_tiles and len(found) > settings.max_tiles:
        rng = np.random.default_rng((settings.seed, job.number))
        picked = np.sort(rng.permutation(len(found))[: settings.max_tiles])
        chosen = [list(found)[i] for i in picked]
        report.not_chosen = len(found) - len(chosen)
        for place, i in enumerate(picked):
            spool[place] = spool[i]
        found = {position: spool[place] for place, position in enumerate(chosen)}
    for mask in found.values():
        counts += np.bincount(mask.ravel(), minlength=256)
    names = [spec.name for spec in settings.plan.classes]
    report.labelled_pixels = {name: int(counts[i]) for i, name in enumerate(names)}
    return list(found)


def _read_images(job: SlideJob, settings: Settings, slide: SlideReader, positions: list[Position]) -> None:
    if not positions:
        return
    tile = settings.tile
    places = {position: i for i, position in enumerate(positions)}
    spool = np.lib.format.open_memmap(
        settings.spool / f"{job.number}-images.npy", "w+", np.uint8, (len(positions), tile, tile, 3)
    )
    np.save(settings.spool / f"{job.number}-places.npy", np.array(positions))
    ratio = settings.mpp / slide.level_mpp(slide.level(settings.mpp))
    for box, members in blocks(positions, tile, min(BLOCK, int(SOURCE_BLOCK / ratio))):
        image = slide.read(settings.mpp, *box)
        for y, x in members:
            spool[places[y, x]] = image[y - box[0] :, x - box[1] :][:tile, :tile]
    spool.flush()


def spooled_tiles(job: SlideJob, settings: Settings, report: SlideReport) -> Iterator[Tile]:
    """The tiles that a worker left on disk for a slide, block by block; removes the files."""
    files = {kind: settings.spool / f"{job.number}-{kind}.npy" for kind in ("images", "masks", "places")}
    if report.tiles:
        images, masks = (np.load(files[kind], mmap_mode="r") for kind in ("images", "masks"))
        factor = settings.mpp / report.mpp
        for i, (y, x) in enumerate(np.load(files["places"]).tolist()):
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
