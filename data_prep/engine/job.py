"""What the engine works on: jobs (a slide or an image each), the rules of cutting, and what became
of a job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep.class_plan import ClassPlan
from data_prep.cohort_table import Row

NOTES = 50
"""Most notes of a slide on polygons that were repaired or left out; one more counts the others."""


@dataclass(frozen=True)
class PolygonFiles:
    """Labels that are polygons.

    Attributes:
      paths: annotation files, each in any format that data_prep.annotations reads.
      slide: the name by which files on several slides list this one.
    """

    paths: tuple[Path, ...]
    slide: str


@dataclass(frozen=True)
class MaskFile:
    """Labels that are an image of the same size as the picture.

    Attributes:
      path: the mask.
      values: of each class the value, or the values, that mean it; None: 0, 1, 2, ... VOID always
        means unlabeled.
      void: further values that mean unlabeled.
      decode: reads class ids, uint8 (h, w), in its own way, in place of all that; a function of a
        module, or a functools.partial of one.
    """

    path: Path
    values: tuple[int | tuple[int, ...], ...] | None = None
    void: tuple[int, ...] = ()
    decode: Callable[[Path], np.ndarray] | None = None


@dataclass(frozen=True)
class Job:
    """One slide or image to cut.

    Attributes:
      key: its name among the jobs; unlike every other.
      row: its row of the table.
      path: the file of the slide or image.
      labels: where its labels are; None where it is not annotated. With a MaskFile the job is a
        picture: it is read as a whole, and tissue is not searched for.
      mpp: microns per pixel of level 0 by the table.
      fallback_mpp: the same where no other source says them.
      number: its place in the table.
      slide: the slide that the tiles are said to be from; "": the file that the table names.
      roi: region of interest that the tiles are said to be from.
      offset: x, y of the image's corner in its slide, in level-0 pixels.
      picture: read it as a whole although it has no MaskFile.
      earlier: x, y of two corners of each part of the image that another job has and that is
        therefore unlabeled here.
    """

    key: str
    row: Row
    path: Path
    labels: PolygonFiles | MaskFile | None
    mpp: float | None = None
    fallback_mpp: float | None = None
    number: int = 0
    slide: str = ""
    roi: str = ""
    offset: tuple[int, int] = (0, 0)
    picture: bool = False
    earlier: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def slide_name(self) -> str:
        """The slide that the tiles are said to be from."""
        return self.slide or self.row.file

    @property
    def is_picture(self) -> bool:
        """Whether it is read as a whole, without a search for tissue."""
        return isinstance(self.labels, MaskFile) or (self.picture and self.labels is None)


def absolute(job: Job) -> Job:
    """A job whose files a process that was started in another folder finds too."""
    labels = job.labels
    if isinstance(labels, PolygonFiles):
        labels = replace(labels, paths=tuple(path.absolute() for path in labels.paths))
    elif isinstance(labels, MaskFile):
        labels = replace(labels, path=labels.path.absolute())
    return replace(job, path=job.path.absolute(), labels=labels)


@dataclass(frozen=True)
class CutRules:
    """How slides are cut; see the options of the commands.

    Attributes:
      mpp, tile, margin: of the tiles: microns per pixel, side and context on each side in pixels.
      stride: pixels from tile to tile in train and style; 0: as tile. In val and test tiles never
        overlap.
      min_tissue: least share of tissue in a tile; 0: tissue is not searched for.
      max_tiles: most tiles of a slide; 0: all.
      shares, per_slide: of the train split, so many tiles of each slide, by kind of their center
        pixel.
      glass: share of glass tiles among the tiles of a train or style slide.
      cover: shift the last row and column of tiles inwards, so that the slide is covered; val and
        test always are.
      fit: scale each image so that its shorter side is one tile, and ignore microns.
      complete: what lies in no polygon is background.
      rois: names of polygons inside which the annotation is complete; outside of them nothing is
        labeled.
      seed: of all random choices.
      stain, stain_target: "macenko" or "reinhard", and the image whose stain all tiles get ("": the
        usual one).
      codec: "png" or "jpegQ".
    """

    mpp: float
    tile: int
    margin: int = 0
    stride: int = 0
    min_tissue: float = 0.5
    max_tiles: int = 0
    shares: tuple[tuple[str, float], ...] = ()
    per_slide: int = 0
    glass: float = 0.0
    cover: bool = True
    fit: bool = False
    complete: bool = False
    rois: tuple[str, ...] = ()
    seed: int = 0
    stain: str = ""
    stain_target: str = ""
    codec: str = "png"

    @property
    def side(self) -> int:
        """Side of a tile with its margins."""
        return self.tile + 2 * self.margin


@dataclass(frozen=True)
class Task:
    """What a worker gets.

    Attributes:
      job, plan, rules: what is cut, and how.
      fingerprint: of all that the result depends on, but for job.fallback_mpp, which may not be
        needed.
      part: folder of the part; None in a dry run, which only looks.
      thumbnail: file of the thumbnail, if one is wanted.
      pictured: draw it in any case; else only where there is a warning, or no tile.
    """

    job: Job
    plan: ClassPlan
    rules: CutRules
    fingerprint: str = ""
    part: Path | None = None
    thumbnail: Path | None = None
    pictured: bool = True

    @property
    def labeled(self) -> bool:
        """Whether the job has labels; one of the split style never has."""
        return self.job.labels is not None and self.job.row.split != "style"

    @property
    def judged(self) -> bool:
        """Whether models are judged on the tiles, so that no pixel may count twice."""
        return self.job.row.split in ("val", "test")

    @property
    def sampled(self) -> bool:
        """Whether tiles are sampled by kind: in train, where the rules name kinds."""
        return bool(self.rules.shares) and self.job.row.split == "train"

    def fingerprint_of(self, fallback: float | None) -> str:
        """The whole fingerprint, given what was used of job.fallback_mpp."""
        return self.fingerprint if fallback is None else f"{self.fingerprint}-{fallback:g}"


@dataclass
class SlideReport:
    """What became of a job; a line of report.jsonl.

    Attributes:
      key, slide, roi, patient, split: whose line it is.
      error: why it was not packed; "" if it was.
      mpp, level, size: of the slide: microns per pixel, the level read, width and height.
      mpp_from: the source of the microns per pixel: table, slide, annotation or --slide_mpp.
      tissue_share: share of the slide that is tissue.
      grid, on_tissue, unlabelled, not_chosen, tiles: tiles in the grid, those on tissue, those of
        them left out since nothing in them is labeled, those left out by --max_tiles, and those
        packed.
      missing: tiles fewer than --per_slide or --glass ask for, as the slide has no more.
      kinds: tiles by kind, where they were sampled or are glass.
      polygons, passed_over, left_out: polygons read; how many others there are by kind (detections,
        points, without a class); and a sentence for each that was left out or repaired.
      warnings: a sentence for each thing to look at, such as an annotation that lies on glass.
      labelled_pixels, void_pixels: of the packed tiles without margin.
      bytes: of the records; in a dry run estimated.
      fallback_mpp: what --slide_mpp says, where no other source did.
      seconds: time on it; 0 where it was taken over from an earlier run.
      stale: it could not be packed again, so that the set keeps what an earlier run made of it.
    """

    key: str
    slide: str
    patient: str
    split: str
    roi: str = ""
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
    kinds: dict[str, int] = field(default_factory=dict)
    polygons: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    labelled_pixels: dict[str, int] = field(default_factory=dict)
    void_pixels: int = 0
    bytes: int = 0
    seconds: float = 0.0
    fallback_mpp: float | None = None
    taken_over: bool = False
    stale: bool = False
    mpp_from: str = ""
    missing: int = 0
    warnings: list[str] = field(default_factory=list)

    def note_missing(
        self, option: str, wanted: Mapping[str, int], found: Mapping[str, int], total: int
    ) -> None:
        """Notes that the slide has fewer tiles than an option asks for, or fewer of a kind."""
        short = [
            f"{kind} {found.get(kind, 0)} of {count}"
            for kind, count in wanted.items()
            if found.get(kind, 0) < count
        ]
        self.missing = max(total - sum(found.values()), 0)
        if short:
            rest = "" if self.missing else "; others make up for them"
            self.warnings.append(f"fewer tiles than {option} asks for: {', '.join(short)}{rest}")

    def shorten(self) -> None:
        """Keeps the first notes on polygons and counts the others; doing it twice changes
        nothing."""
        more = len(self.left_out) - NOTES
        if more > 1:
            self.left_out = [*self.left_out[:NOTES], f"and {more} more like these"]


def report_of(job: Job, error: str = "") -> SlideReport:
    """An empty report of a job."""
    return SlideReport(job.key, job.slide_name, job.row.patient, job.row.split, job.roi, error)
