"""Reads the files themselves, and refuses those that are made to do harm: entities in XML, endless
nesting, bombs."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from stedm_jax.common.errors import UserError

MOST_BYTES = 2**31
"""Larger texts are refused; compressed ones too, by what they unpack to."""


class DamagedError(ValueError):
    """A file is not what it should be."""


@contextmanager
def named(path: Path, what: str) -> Iterator[None]:
    """Turns what can go wrong in reading a damaged file into an error for the user.

    Raises:
      UserError: names the file.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"The annotation {path} cannot be read ({error.strerror or error}); copy it again."
        ) from error
    except RecursionError as error:
        raise UserError(
            f"The annotation {path} is nested deeper than any {what}; export it again."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        detail = (
            f"{type(error).__name__} {error}"
            if isinstance(error, (KeyError, AttributeError))
            else error
        )
        raise UserError(
            f"The annotation {path} is no {what} ({detail}); export it again as such."
        ) from error


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where gzip packed it.

    Raises:
      DamagedError: too large, or damaged.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedError(f"its compression is damaged: {error}") from error
    if len(data) > MOST_BYTES:
        raise DamagedError(f"it holds more than {MOST_BYTES >> 30} GiB")
    return data


def head(path: Path, count: int = 4096) -> bytes:
    """The first bytes of a file, unpacked where gzip packed it; empty where that is damaged."""
    try:
        with path.open("rb") as file:
            start = file.read(count)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                start = file.read(count)
    except (OSError, EOFError, zlib.error):
        return b""
    return start


def read_text(path: Path) -> str:
    """The text of a file, in UTF-8 with or without a mark."""
    return read_bytes(path).decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """The content of a JSON file; that of the last file is kept, as a cohort's file is read for
    every slide.

    Raises:
      ValueError, RecursionError: it is no JSON.
    """
    stat = path.stat()
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _parsed(path: Path, changed: int, size: int) -> Any:
    return json.loads(read_text(path))


class _RootReachedError(Exception):
    """The prologue of an XML file is over."""


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
      DamagedError: it is no XML, or declares a document type (where entities come from; no
        annotation needs one).
    """
    data = read_bytes(path)

    def refuse(*_: Any) -> None:
        raise DamagedError(
            "it declares a document type or entities, which are refused as they can be made to harm"
        )

    def stop(*_: Any) -> None:
        raise _RootReachedError

    try:
        prologue = expat.ParserCreate()
        prologue.StartDoctypeDeclHandler = refuse
        prologue.EntityDeclHandler = refuse
        prologue.StartElementHandler = stop
        with suppress(_RootReachedError):
            prologue.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise DamagedError(f"it is no XML: {error}") from error


def number(text: str | None) -> float:
    """A number of an XML attribute; a comma may stand for the point.

    Raises:
      ValueError: it is none.
    """
    if text is None:
        raise DamagedError("a coordinate is missing")
    return float(text.strip().replace(",", "."))


def same_slide(listed: str, slide: str) -> int:
    """How surely a name in a file means a slide: 2 by file name, 1 by name without the suffix, 0
    not at all.

    Where both have folders, the last of them must be alike, as many as the name with fewer has.
    """
    (*above, listed), (*folders, slide) = (
        text.replace("\\", "/").split("/") for text in (listed, slide)
    )
    common = min(len(above), len(folders))
    if common and above[-common:] != folders[-common:]:
        return 0
    if listed == slide:
        return 2
    return int(bool(listed) and stem(listed) == stem(slide))


def base_stem(name: str) -> str:
    """The file name of a path, without its last suffix."""
    return stem(name.replace("\\", "/").rsplit("/", 1)[-1])


def stem(name: str) -> str:
    """A file name without its last suffix, if what follows the last point looks like one."""
    base, point, suffix = name.rpartition(".")
    return (
        base
        if point and base and len(suffix) <= 8 and suffix.isalnum() and not suffix.isdigit()
        else name
    )


def pick_slide(listed: list[str], slide: str, path: Path) -> int:
    """Position of a slide in a file's list of slides.

    A file that lists one slide only and is named after the slide itself is taken to mean it.

    Raises:
      UserError: the file does not list it, or more than once.
    """
    for sureness in (2, 1):
        found = [i for i, name in enumerate(listed) if same_slide(name, slide) == sureness]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"The annotation {path} lists the slide {slide} {len(found)} times; give each slide a name of its own."
            )
    if (
        len(listed) == 1
        and path.name.startswith(base_stem(slide))
        and base_stem(listed[0]) != base_stem(slide)
    ):
        return 0  # the slide was renamed after it was annotated
    some = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
    raise UserError(
        f"The annotation {path} does not list the slide {slide}; it lists {some or 'none'}."
    )
