"""Reads what files say of a slide, repairs it and merges it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_prep.annotations.content import Format, Size, content_of
from data_prep.annotations.formats import KNOWN, format_of
from data_prep.annotations.origin import Origin
from data_prep.annotations.polygon import Annotation, Draft
from data_prep.annotations.repair import repair
from data_prep.annotations.slide_names import pick_slide
from stedm_jax.common.errors import UserError


def read_annotation(
    path: Path, slide: str, size: Size | None = None, origin: Origin | None = None
) -> Annotation:
    """Reads what a file says of a slide; polygons are repaired where that is safe, and sorted.

    Args:
      path: a file of any format, which is recognized by its content.
      slide: name of the slide, for files of whole cohorts.
      size: of the slide; label masks need it, and without it no polygon is known to lie outside
        the slide.
      origin: where coordinates begin; None: at the corner of the slide.

    Raises:
      UserError: no known format, damaged, made to do harm, or it does not list the slide.
    """
    with _explained(path, "an annotation"):
        form = format_of(content_of(path))
    if form is None:
        raise UserError(
            f"The annotation {path} has none of the formats that are read ({KNOWN}); export it "
            "again in one of them."
        )
    with _explained(path, form.name):
        draft = _draft(form, path, slide, size, origin or Origin())
        flawed = [polygon for polygon in draft.polygons if polygon.flaw]
        if flawed and len(flawed) == len(draft.polygons):
            raise ValueError(f"polygon 1 ({flawed[0]}): {flawed[0].flaw}")
        polygons, notes = repair(draft, size)
    polygons.sort(key=lambda polygon: -polygon.area)
    named = tuple(f"{path.name}: {note}" for note in notes)
    return Annotation(tuple(polygons), named, draft.mpp, draft.passed)


def load_annotation(
    paths: Sequence[Path], slide: str, size: Size | None = None, origin: Origin | None = None
) -> Annotation:
    """Reads the annotation of a slide from one or several files and merges it; see read_annotation.

    Raises:
      UserError: as read_annotation does; or two files say different microns per pixel.
    """
    parts = [read_annotation(path, slide, size, origin) for path in paths]
    polygons = [polygon for part in parts for polygon in part.polygons]
    polygons.sort(key=lambda polygon: -polygon.area)
    said = {part.mpp for part in parts if part.mpp is not None}
    if said and max(said) > 1.02 * min(said):
        values = " and ".join(f"{mpp:g}" for mpp in sorted(said))
        raise UserError(
            f"The annotations of slide {slide} say {values} microns per pixel; give the right "
            "value in the column mpp."
        )
    notes = tuple(note for part in parts for note in part.left_out)
    passed = sum((Counter(part.passed) for part in parts), Counter())
    return Annotation(tuple(polygons), notes, min(said, default=None), passed)


def _draft(form: Format, path: Path, slide: str, size: Size | None, origin: Origin) -> Draft:
    content = content_of(path)
    position = pick_slide(form.listed(content), slide, path) if form.listed else 0
    draft = form.read(content, position, size)
    if (origin.x, origin.y) != (0, 0) and origin.counts(draft.begins):
        draft.shift(origin.x, origin.y)
        whose = "coordinates" if origin.said else "QuPath's coordinates"
        draft.notes.append(
            f"{whose} were taken to begin at the scanned part of the slide, x={origin.x} "
            f"y={origin.y}, which was added; if they begin at its corner, say "
            "annotation_origin=slide in the table"
        )
    return draft


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turns what can go wrong in reading a damaged file into an error for the user.

    Raises:
      UserError: names the file.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The annotation {path} cannot be read ({error.strerror or error}); copy it again."
        ) from error
    except RecursionError as error:
        raise UserError(
            f"The annotation {path} is nested deeper than any {what}; export it again."
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        named = isinstance(error, KeyError | AttributeError)
        detail = f"{type(error).__name__} {error}" if named else error
        raise UserError(
            f"The annotation {path} cannot be read as {what} ({detail}); export it again as such."
        ) from error
