"""Content of annotation files, and what a format of annotations is.

Files that are made to do harm are refused: entities in XML, endless nesting, bombs.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from data_prep.annotations.polygon import Draft
from data_prep.remember import until_it_changes

MOST_BYTES = 2**31
"""Larger texts are refused; for compressed ones, the size after unpacking counts."""
HEAD_BYTES = 2**16
"""How much of a file is read to recognize its format."""


class _RootReachedError(Exception):
    """The prologue of an XML file is over."""


class Content:
    """Content of a file, which is read as far as it is needed; gzip is unpacked."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def head(self) -> bytes:
        """The first bytes; none where the compression is damaged."""
        try:
            with self._opened() as file:
                return file.read(HEAD_BYTES)
        except (OSError, EOFError, zlib.error):
            return b""

    @cached_property
    def start(self) -> str:
        """The first bytes as text."""
        return self.head.decode("utf-8-sig", "replace").lstrip()

    def text(self) -> str:
        """All of the text, in UTF-8 with or without a byte order mark.

        Raises:
          ValueError: it is too large, or damaged.
        """
        return self._bytes().decode("utf-8-sig")

    @cached_property
    def json(self) -> Any:
        """The parsed JSON; None where the file does not begin like JSON.

        Raises:
          ValueError, RecursionError: it is damaged.
        """
        return json.loads(self.text()) if self.start.startswith(("{", "[")) else None

    @cached_property
    def root_tag(self) -> str:
        """Tag of the root element of XML; "" for any other file."""
        return self._prologue[0]

    def xml(self) -> ElementTree.Element:
        """The root of an XML file.

        Raises:
          ValueError: it is damaged, or declares a document type (where entities come from; no
            annotation needs one).
        """
        if self._prologue[1]:
            raise ValueError(
                "it declares a document type or entities, which are refused as they can do harm"
            )
        try:
            return ElementTree.fromstring(self._bytes())
        except (ElementTree.ParseError, LookupError) as error:
            raise ValueError(f"it is no XML: {error}") from error

    @cached_property
    def _prologue(self) -> tuple[str, bool]:
        """Tag of the root element, and whether a document type is declared before it."""
        tags, types = [], []

        def stop(name: str, _: Any) -> None:
            tags.append(name)
            raise _RootReachedError

        parser = expat.ParserCreate()
        parser.StartElementHandler = stop
        parser.StartDoctypeDeclHandler = lambda *declared: types.append(declared)
        with suppress(_RootReachedError, expat.ExpatError, LookupError):
            parser.Parse(self.head, False)
        return "".join(tags), bool(types)

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedIOBase]:
        with self.path.open("rb") as file, ExitStack() as stack:
            packed = file.peek(2).startswith(b"\x1f\x8b")
            yield stack.enter_context(gzip.open(file)) if packed else file

    def _bytes(self) -> bytes:
        try:
            with self._opened() as file:
                data = file.read(MOST_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"its compression is damaged: {error}") from error
        if len(data) > MOST_BYTES:
            raise ValueError(f"it holds more than {MOST_BYTES >> 30} GiB")
        return data


content_of = until_it_changes(2)(Content)
"""The content of a file; that of the last ones is kept, as a cohort's file serves many slides."""


Size = tuple[int, int]
"""Width and height of a slide in level-0 pixels."""


@dataclass(frozen=True)
class Format:
    """A format of annotations.

    Attributes:
      name: for messages.
      suffixes: of its files, in lower case.
      sniff: whether a file is of this format.
      read: reads what a file says of a slide. Its arguments are the content, the position of the
        slide among those that the file lists (0 where it lists none), and the slide's size where it
        is known. It raises ValueError, TypeError, KeyError, AttributeError or RecursionError where
        the file is damaged.
      listed: names of the slides in a file of a whole cohort; None: a file is of one slide.
      meant: whether a file that is named like a slide is its annotation, and not a picture of it.
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[Content], bool]
    read: Callable[[Content, int, Size | None], Draft]
    listed: Callable[[Content], list[str]] | None = None
    meant: Callable[[Content], bool] = lambda content: True
