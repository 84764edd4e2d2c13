"""Finds the annotation of a slide and reads it, whatever its format.

The format is told by content. By name, an annotation is NAME.geojson, NAME.json, NAME.xml,
NAME.sqlite, NAME.db, NAME.txt, NAME.csv (those of text also with .gz), or a label mask NAME.png,
NAME.tif, NAME.tiff; NAME is the slide's name with or without its suffix. Several files make up one
annotation if what follows the name says that they are
pieces: NAME-layer1.geojson, NAME_annotationsLayer2.geojson. Files of a whole cohort (COCO,
  SlideRunner, EXACT)
in the folder count if they list the slide.
"""

import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from data_prep.annotations import (
    asap,
    coco,
    exact,
    geojson,
    histomics,
    imagescope,
    label_mask,
    sliderunner,
)
from data_prep.annotations.mend import mend
from data_prep.annotations.origin import Origin
from data_prep.annotations.polygon import Annotation, Draft
from data_prep.annotations.source import (
    DamagedError,
    base_stem,
    head,
    named,
    pick_slide,
    read_bytes,
    read_json,
    read_text,
    read_xml,
    same_slide,
    stem,
)
from stedm_jax.common.errors import UserError

_TEXTS = (".geojson", ".json", ".xml", ".txt", ".csv")
_BASES = (".sqlite", ".sqlite3", ".db")
_COHORTS = (*_BASES, ".json", ".txt", ".csv")
_IMAGES = (".png", ".tif", ".tiff")
_PIECE = re.compile(r"[-_. ]*(annotations?|layers?)[-_. ]*\w*", re.IGNORECASE)
_FORMATS = (
    "QuPath or plain GeoJSON, Aperio ImageScope XML, ASAP XML, HistomicsUI JSON, COCO JSON, SlideRunner SQLite, "
    "an EXACT export, or a label mask (PNG, TIFF)"
)

WHOLE = Origin()
SETTLED_NS = 2 * 10**9
"""A folder that changed later than that is listed anew each time: its clock may not tell two
changes apart."""


def find_annotations(folder: Path, slide: str) -> tuple[Path, ...]:
    """The files that annotate a slide.

    Args:
      folder: where annotations lie.
      slide: the slide as a table names it; a folder in the name is looked into as well.

    Returns:
      The files; none if there is no annotation.

    Raises:
      UserError: there are several that do not belong together.
    """
    slide = slide.replace("\\", "/")
    name = slide.rsplit("/", 1)[-1]
    places = [
        _listing(place)
        for place in dict.fromkeys([folder, (folder / slide).parent])
        if place.is_dir()
    ]
    whole = _asked(places, "whole", name)
    pieces = _asked(places, "pieces", name)
    taken = {*whole, *pieces}
    cohort = [
        file
        for place in places
        for file in place.cohort.get(stem(name), ())
        if file not in taken and _lists(file, slide)
    ]
    if len({_suffix(file) for file in pieces}) > 1 or sum(map(bool, (whole, pieces, cohort))) > 1:
        found = [*whole, *pieces, *cohort]
    elif len(whole) > 1 or len(cohort) > 1:
        found = [*whole, *cohort]
    else:
        return tuple(whole or pieces or cohort)
    raise UserError(
        f"Slide {slide} has annotations in several files, which may say the same twice: "
        f"{', '.join(str(file.relative_to(folder)) for file in found[:8])}. Name those that count in the column "
        "annotation of the table (several parted by ;), or move the others away."
    )


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in (*_TEXTS, *_BASES, *_IMAGES) if name.endswith(suffix)), "")


def _base(name: str) -> str:
    """A file's name without what says that it is an annotation."""
    plain = name[:-3] if name.lower().endswith(".gz") else name
    suffix = _suffix(Path(name))
    return plain[: -len(suffix)] if suffix else ""


class _Listing:
    """The files of a folder, by the names of the slides that they may be for.

    Attributes:
      whole, pieces: name of a slide, with its suffix or without, -> files named after it.
      cohort: name of a slide without its suffix -> files that list such a one; looked for when
        first asked.
    """

    def __init__(self, folder: Path):
        self._files = sorted(folder.iterdir())
        self.whole: dict[str, list[Path]] = {}
        self.pieces: dict[str, list[Path]] = {}
        for file in self._files:
            base = _base(file.name)
            self.whole.setdefault(base, []).append(file)
            if _PIECE.search(base):
                for end in range(1, len(base)):
                    if _PIECE.fullmatch(base, end):
                        self.pieces.setdefault(base[:end], []).append(file)

    @cached_property
    def cohort(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for file in self._files:
            if _suffix(file) in _COHORTS and file.is_file():
                for name in _cohort(file, *_stamp(file)):
                    found.setdefault(name, []).append(file)
        return found


def _asked(places: Sequence[_Listing], what: str, name: str) -> list[Path]:
    """Files of that kind that are annotations of the slide, each once, in the order of their
    names."""
    found: list[Path] = []
    for place in places:
        files = [
            file
            for key in dict.fromkeys([name, stem(name)])
            for file in getattr(place, what).get(key, ())
        ]
        found += [file for file in sorted(set(files)) if _is_one(file, name)]
    return found


def _listing(folder: Path) -> _Listing:
    """Lists a folder once for all slides; anew if it changed, or is so new that a change may not
    show in its time."""
    changed = folder.stat().st_mtime_ns
    return (
        _Listing(folder)
        if time.time_ns() - changed < SETTLED_NS
        else _kept_listing(folder, changed)
    )


@lru_cache(maxsize=64)
def _kept_listing(folder: Path, changed: int) -> _Listing:
    return _Listing(folder)


def _is_one(file: Path, slide: str) -> bool:
    """Whether a file of the slide's name is an annotation, and not the slide, a picture of it or
    something else."""
    suffix = _suffix(file)
    if (
        not suffix
        or not file.is_file()
        or file.name == slide
        or file.name.lower().endswith(".classes.json")
    ):
        return False
    if suffix in _IMAGES:
        return label_mask.is_label_mask(file)
    if suffix in (".txt", ".csv"):
        return exact.is_exact_text(head(file).decode("utf-8-sig", "replace"))
    if suffix == ".xml":  # slides have others beside them, too
        start = head(file)
        return not start or b"Annotations" in start.replace(b"\0", b"")
    return suffix == ".geojson" or _kind_by_stamp(file, *_stamp(file)) != "other JSON"


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _lists(file: Path, slide: str) -> bool:
    return any(
        same_slide(name, slide) for name in _cohort(file, *_stamp(file)).get(base_stem(slide), ())
    )


@lru_cache(maxsize=4096)
def _cohort(file: Path, changed: int, size: int) -> dict[str, list[str]]:
    """Names of the slides that a cohort's file lists, by the name without folders and suffix; none
    if it is none."""
    start = head(file).lstrip()
    if re.search(rb'"(Feature|FeatureCollection|GeometryCollection|elements)"', start):
        return {}
    found: dict[str, list[str]] = {}
    try:
        for name in _listed(file, _kind(file)):
            found.setdefault(base_stem(name), []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return {}
    return found


def shared_annotations(asked: Mapping[int, tuple[Sequence[Path], str]]) -> dict[int, str]:
    """What is wrong where two slides have one annotation: by number, of both of them.

    Args:
      asked: by number the files of a slide, and its name. A file of a whole cohort may serve many,
        by entries of their own.
    """
    users: dict[tuple[Path, str], list[int]] = {}
    for number, (paths, slide) in asked.items():
        for path in paths:
            names = (
                _cohort(path, *_stamp(path)).get(base_stem(slide), [])
                if _suffix(path) in _COHORTS
                else []
            )
            sureness = max((same_slide(name, slide) for name in names), default=0)
            entry = next(
                (name for name in names if sureness and same_slide(name, slide) == sureness), ""
            )
            users.setdefault((path.absolute(), entry), []).append(number)
    errors: dict[int, str] = {}
    for (path, _), numbers in users.items():
        slides = list(dict.fromkeys(asked[number][1] for number in numbers))
        if len(slides) > 1:
            text = (
                f"The annotation {path} would serve {len(slides)} slides, {', '.join(slides[:5])}; an annotation is of "
                "one. Put it into the folder of its slide, or name the files in the column annotation of the table."
            )
            errors |= dict.fromkeys(numbers, text)
    return errors


@lru_cache(maxsize=4096)
def _kind_by_stamp(file: Path, changed: int, size: int) -> str:
    start = head(file).lstrip()
    if b'"FeatureCollection"' in start:
        return "GeoJSON"
    try:
        return _kind(file)
    except (ValueError, RecursionError, OSError):
        return "damaged"


def _kind(file: Path) -> str:
    """The format of a file, by its content.

    Raises:
      ValueError, RecursionError: it is damaged, or of no known format.
    """
    start = head(file)
    if not start and not read_bytes(file):
        raise DamagedError("it is empty")
    if start.startswith(b"SQLite format 3\0"):
        return "SlideRunner database"
    if start[:4] in (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "label mask"
    text = start.decode("utf-8-sig", "replace").lstrip()
    if text.startswith("<") or start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "ImageScope or ASAP XML"
    if text.startswith(("{", "[")):
        return _json_kind(read_json(file))
    if exact.is_exact_text(text):
        return "EXACT export"
    raise DamagedError(f"it is none of {_FORMATS}")


def _json_kind(data: Any) -> str:
    tests = {
        "GeoJSON": geojson.is_geojson,
        "COCO JSON": coco.is_coco,
        "HistomicsUI JSON": histomics.is_histomics,
        "EXACT JSON": exact.is_exact,
    }
    return next((kind for kind, test in tests.items() if test(data)), "other JSON")


def _listed(file: Path, kind: str) -> list[str]:
    if kind == "SlideRunner database":
        return sliderunner.listed(file)
    if kind == "COCO JSON":
        return coco.listed(read_json(file))
    if kind in ("EXACT JSON", "EXACT export"):
        return exact.listed(_entries(file, kind, *_stamp(file)))
    return []


@lru_cache(maxsize=1)
def _entries(file: Path, kind: str, changed: int, size: int) -> list[exact.Entry]:
    """All entries of an export of EXACT, kept as it is read for every slide."""
    return (
        exact.entries_of_json(read_json(file))
        if kind == "EXACT JSON"
        else exact.entries_of_text(read_text(file))
    )


def _draft(
    path: Path, kind: str, slide: str, size: tuple[int, int] | None, origin: Origin
) -> Draft:
    draft = _parsed(path, kind, slide, size)
    if kind == "label mask" or (origin.x, origin.y) == (0, 0):  # a mask covers the whole slide
        return draft
    if origin.counts(kind == "GeoJSON" and geojson.is_qupath(read_json(path))):
        draft.shift(origin.x, origin.y)
        whose = "coordinates" if origin.said else "QuPath's coordinates"
        draft.notes.append(
            f"{whose} were taken to begin at the scanned part of the slide, x={origin.x} y={origin.y}, which was "
            "added; if they begin at its corner, say annotation_origin=slide in the table"
        )
    return draft


def _parsed(path: Path, kind: str, slide: str, size: tuple[int, int] | None) -> Draft:
    if kind == "GeoJSON":
        return geojson.parse_geojson(read_json(path))
    if kind == "HistomicsUI JSON":
        return histomics.parse_histomics(read_json(path))
    if kind == "ImageScope or ASAP XML":
        root = read_xml(path)
        return (
            asap.parse_asap(root)
            if root.tag == "ASAP_Annotations"
            else imagescope.parse_imagescope(root)
        )
    if kind == "label mask":
        return label_mask.parse_label_mask(path, size)
    names = _listed(path, kind)
    position = pick_slide(names, slide, path)
    if kind == "SlideRunner database":
        return sliderunner.parse_sliderunner(path, position)
    if kind == "COCO JSON":
        return coco.parse_coco(read_json(path), position, size)
    return exact.parse_exact(_entries(path, kind, *_stamp(path)), names[position])


def read_annotation(
    path: Path, slide: str, size: tuple[int, int] | None = None, origin: Origin = WHOLE
) -> Annotation:
    """Reads what a file says of a slide; polygons are mended where that is safe, and sorted.

    Args:
      path: a file of any format; it is told by content.
      slide: name of the slide, for files of whole cohorts.
      size: width and height of the slide in level-0 pixels; label masks need it, and without it
        nothing is known to lie outside the slide.
      origin: where coordinates begin; see Origin.

    Raises:
      UserError: no known format, damaged, made to do harm, or it does not list the slide.
    """
    with named(path, "annotation"):
        kind = _kind(path)
    if kind == "other JSON":
        raise UserError(
            f"The annotation {path} is none of {_FORMATS}; export it again as one of them."
        )
    with named(path, kind):
        draft = _draft(path, kind, slide, size, origin)
        polygons, notes = mend(draft, size)
    polygons.sort(key=lambda polygon: -polygon.area)
    return Annotation(
        tuple(polygons),
        tuple(f"{path.name}: {note}" for note in notes),
        draft.mpp,
        draft.passed_over,
    )


def load_annotation(
    paths: Sequence[Path], slide: str, size: tuple[int, int] | None = None, origin: Origin = WHOLE
) -> Annotation:
    """Reads the annotation of a slide from one or several files and merges it; see read_annotation.

    Raises:
      UserError: as of read_annotation; or two files say different microns per pixel.
    """
    parts = [read_annotation(path, slide, size, origin) for path in paths]
    polygons = sorted(
        (polygon for part in parts for polygon in part.polygons), key=lambda polygon: -polygon.area
    )
    said = {part.mpp for part in parts if part.mpp is not None}
    if said and max(said) > 1.02 * min(said):
        values = " and ".join(f"{mpp:g}" for mpp in sorted(said))
        raise UserError(
            f"The annotations of slide {slide} say {values} microns per pixel; give the true one in the column mpp."
        )
    return Annotation(
        tuple(polygons),
        tuple(note for part in parts for note in part.left_out),
        min(said) if said else None,
        sum(part.passed_over for part in parts),
    )
