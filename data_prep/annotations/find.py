"""Finds the annotation of a slide, whatever its format.

By name, an annotation is the slide's name, with or without its suffix, followed by a suffix of one
of the formats (of a text also with .gz). Several files make up one annotation if what follows the
name says that they are pieces: NAME-layer1.geojson, NAME_annotationsLayer2.geojson. Files of a
whole cohort (COCO, SlideRunner, EXACT) in the folder count if they list the slide.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from data_prep.annotations.content import Format, content_of
from data_prep.annotations.formats import FORMATS, format_of
from data_prep.annotations.label_mask import SUFFIXES as MASKS
from data_prep.annotations.slide_names import same_slide
from data_prep.remember import until_a_file_comes, until_it_changes
from data_prep.spelling import base_stem, nfc, spellings, stem
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.find_images import is_result

_SUFFIXES = "|".join(re.escape(suffix) for each in FORMATS for suffix in each.suffixes)
_NAMED = re.compile(rf"(.+?)({_SUFFIXES})(\.gz)?", re.IGNORECASE | re.DOTALL)
_COHORTS = {suffix for each in FORMATS if each.listed for suffix in each.suffixes}
MANY = 6
"""Most files that a message lists."""
_PIECE = re.compile(r"[-_. ]*(annotations?|layers?)[-_. ]*\w*", re.IGNORECASE)


def find_annotations(folder: Path, slide: str, own: Path | None = None) -> tuple[Path, ...]:
    """The files that annotate a slide.

    Args:
      folder: where annotations lie.
      slide: the slide as a table names it; a folder in the name is searched as well.
      own: the file of the slide, which is no mask of it; None: any file of that name.

    Returns:
      The files; none if there is no annotation.

    Raises:
      UserError: there are several that do not belong together.
    """
    slide = nfc(slide.replace("\\", "/"))
    name = slide.rsplit("/", 1)[-1]
    places = _places(folder, slide)
    own = own or folder / slide
    whole = _of_inference([file for place in places for file in _named(place.whole, name, own)])
    pieces = [file for place in places for file in _named(place.pieces, name, own)]
    cohort = [
        file
        for place in places
        for file in place.cohort.get(stem(name), ())
        if file not in (*whole, *pieces) and _entry(file, slide)
    ]
    kinds = sum(map(bool, (whole, pieces, cohort)))
    mixed = len({_suffix(file) for file in pieces}) > 1
    if not mixed and kinds <= 1 and len(whole) <= 1 and len(cohort) <= 1:
        return tuple(whole or pieces or cohort)
    found = [*whole, *pieces, *cohort][:8]
    raise UserError(
        f"Slide {slide} has annotations in several files, which may say the same twice: "
        f"{', '.join(str(file.relative_to(folder)) for file in found)}. Name those that count in "
        "the column annotation of the table (several separated by ;), or move the others away."
    )


def _places(folder: Path, slide: str) -> list["_Listing"]:
    folders = dict.fromkeys([folder, (folder / slide).parent])
    return [_listing(place) for place in folders if place.is_dir()]


def _of_inference(files: list[Path]) -> list[Path]:
    """Of a mask and outlines that inference wrote together, the outlines; all other files."""
    outlines = [file for file in files if _suffix(file) not in MASKS and is_result(file)]
    return outlines if len(outlines) == 1 and all(map(is_result, files)) else files


def misfits(folder: Path, slide: str, own: Path) -> str:
    """What lies in a folder that may be meant as the annotation of a slide, and why it is not
    taken; else some of what lies there.

    Args:
      folder, slide, own: as find_annotations takes them.
    """
    slide = nfc(slide.replace("\\", "/"))
    near = stem(slide.rsplit("/", 1)[-1])
    files = [file for place in _places(folder, slide) for file in place.files if file != own]
    said = [
        f"{file.name}: {_unfit(file, near)}"
        for file in files
        if file.is_file() and nfc(file.name).casefold().startswith(near.casefold())
    ]
    names = said or [file.name for file in files if not file.name.startswith(".")]
    if not names:
        return "nothing lies there"
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return f"there lie {'; '.join(names[:MANY])}{more}"


def _unfit(file: Path, near: str) -> str:
    """Why a file whose name begins like a slide's is not its annotation."""
    suffix = _suffix(file)
    if not suffix:
        return f"its ending is none of {_SUFFIXES}".replace("\\", "").replace("|", ", ")
    try:
        found = _format(file)
    except (ValueError, RecursionError, OSError) as error:
        return f"damaged, {error}"
    if found is None:
        return "it has none of the formats that are read"
    if suffix not in found.suffixes:
        return f"it is {found.name}, which ends in {' or '.join(found.suffixes)}"
    if not found.meant(content_of(file)):
        return "a picture in colors, and no label mask"
    return f"its name is not {near}{suffix}"


def shared_annotations(asked: Mapping[int, tuple[Sequence[Path], str]]) -> dict[int, str]:
    """Errors, by number, of slides that would share one annotation.

    Args:
      asked: by number the files of a slide, and its name. A file of a whole cohort may serve many,
        by entries of their own.
    """
    users: dict[tuple[Path, str], list[int]] = {}
    for number, (paths, slide) in asked.items():
        for path in paths:
            users.setdefault((path.absolute(), _entry(path, slide)), []).append(number)
    errors: dict[int, str] = {}
    for (path, _), numbers in users.items():
        slides = list(dict.fromkeys(asked[number][1] for number in numbers))
        if len(slides) > 1:
            text = (
                f"The annotation {path} would serve {len(slides)} slides, "
                f"{', '.join(slides[:5])}; an annotation belongs to one. Put it into the folder of "
                "its slide, or name the files in the column annotation of the table."
            )
            errors |= dict.fromkeys(numbers, text)
    return errors


class _Listing:
    """The files of a folder, by the names of the slides that they may be for.

    Attributes:
      whole, pieces: name of a slide, with its suffix or without, -> files named after it.
    """

    def __init__(self, folder: Path):
        self.files = sorted(folder.iterdir())
        self.whole: dict[str, list[Path]] = {}
        self.pieces: dict[str, list[Path]] = {}
        for file in self.files:
            base, _ = _parts(file)
            self.whole.setdefault(base, []).append(file)
            if _PIECE.search(base):
                for end in range(1, len(base)):
                    if _PIECE.fullmatch(base, end):
                        self.pieces.setdefault(base[:end], []).append(file)

    @cached_property
    def cohort(self) -> dict[str, list[Path]]:
        """Name of a slide without its suffix -> files that list such a one."""
        found: dict[str, list[Path]] = {}
        for file in self.files:
            if _suffix(file) in _COHORTS and file.is_file():
                for name in _listed(file):
                    found.setdefault(name, []).append(file)
        return found


def _parts(file: Path) -> tuple[str, str]:
    """A file's name without the suffix of an annotation, and that suffix; both "" without one."""
    match = _NAMED.fullmatch(nfc(file.name))
    return (match[1], match[2].lower()) if match else ("", "")


def _suffix(file: Path) -> str:
    return _parts(file)[1]


def _named(named: Mapping[str, Sequence[Path]], slide: str, own: Path) -> list[Path]:
    """Those of the files named after a slide that are annotations of it, in the order of their
    names."""
    files = {file for key in spellings(slide) for file in named.get(key, ())}
    return [file for file in sorted(files) if _is_annotation(file, own)]


_listing = until_a_file_comes(64)(_Listing)
"""Lists a folder once for all slides."""


def _is_annotation(file: Path, own: Path) -> bool:
    """Whether a file of the slide's name is an annotation, and not the slide, a picture of it or
    something else."""
    if not file.is_file() or file.name.lower().endswith(".classes.json"):
        return False
    if file == own or (own.exists() and file.samefile(own)):
        return False
    try:
        found = _format(file)
    except (ValueError, RecursionError, OSError):
        return True  # reading it says what is wrong
    return found is not None and _suffix(file) in found.suffixes and found.meant(content_of(file))


def _entry(file: Path, slide: str) -> str:
    """The name by which a cohort's file lists a slide; "" if it does not."""
    names = _listed(file).get(base_stem(slide), [])
    best = max(names, key=lambda name: same_slide(name, slide), default="")
    return best if same_slide(best, slide) else ""


@until_it_changes(4096)
def _format(file: Path) -> Format | None:
    return format_of(content_of(file))


@until_it_changes(4096)
def _listed(file: Path) -> dict[str, list[str]]:
    """Names of the slides that a cohort's file lists, by the name without folders and suffix; none
    for any other file."""
    found: dict[str, list[str]] = {}
    try:
        form, content = _format(file), content_of(file)
        for name in form.listed(content) if form and form.listed else ():
            found.setdefault(base_stem(name), []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return {}
    return found
