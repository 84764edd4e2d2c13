"""Tables as text editors, spreadsheets and programs write them."""

import csv
import difflib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.spelling import nfc
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_file

_SEPARATORS = ",;\t"
_SAID = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""The first line by which Excel is given the separator."""
_UTF16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_cells(
    path: Path, must: Sequence[str], optional: Sequence[str] = (), published: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells, stripped and in NFC, of each row that is not empty.

    The separator is a comma, semicolon or tab, or what a first line `sep=;` says; the text is
    UTF-8, or UTF-16 with a byte order mark. A column without a name is left out, which is said.

    Args:
      path: a CSV file.
      must: columns that must be there, in upper or lower case.
      optional: further columns that are known.
      published: a table that the user did not write, in which rows may be ragged.

    Raises:
      UserError: it is no such table, lacks a column or has one twice, or has ragged rows.
    """
    try:
        skipped, reader = _reader(path, strict=not published)
        first = next((cells for cells in reader if any(map(str.strip, cells))), [])
        header = _header(first, must, optional, path, published)
        for cells in reader:
            cells = [nfc(text.strip()) for text in cells]
            line = skipped + reader.line_num
            if not any(cells):
                continue
            if len(cells) != len(header) and not published:
                raise UserError(
                    f"{path} line {line} has {len(cells)} cells and the header {len(header)}; add "
                    "or remove separators."
                )
            cells += [""] * (len(header) - len(cells))
            yield line, {name: text for name, text in zip(header, cells, strict=False) if name}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"The table {path} is no CSV in UTF-8 ({error}); save it again as such."
        ) from error


def _reader(path: Path, strict: bool) -> tuple[int, Any]:
    """A csv.reader of the rows, behind the number of lines before them."""
    data = path.read_bytes()
    lines = list(io.StringIO(data.decode(_UTF16.get(data[:2], "utf-8-sig")), newline=""))
    said = _SAID.fullmatch(lines[0]) if lines else None
    skipped = int(said is not None)
    head = next((line for line in lines[skipped:] if line.strip()), "")
    widest = max(_SEPARATORS, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
    separator = said[1] if said else widest
    return skipped, csv.reader(lines[skipped:], delimiter=separator, strict=strict)


def _header(
    first: Sequence[str],
    must: Sequence[str],
    optional: Sequence[str],
    path: Path,
    published: bool,
) -> list[str]:
    """The names of the columns, known ones in lower case."""
    known = {*must, *optional}
    lower = {name.casefold(): name for name in known}
    header = [nfc(name.strip()) for name in first]
    header = [name if name in known else lower.get(name.casefold(), name) for name in header]
    missing = [column for column in must if column not in header]
    if missing:
        raise UserError(
            f"The table {path} has no column {', '.join(missing)}; it has "
            f"{', '.join(header) or 'nothing'}. It needs {', '.join(must)}."
        )
    counts = Counter(
        name.casefold() for name in header if name and (name in known or not published)
    )
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(
            f"The table {path} has the column {', '.join(twice)} more than once (upper and lower "
            "case are one), so that it is not clear which counts; remove or rename one."
        )
    if "" in header[: len(header) - 1] and not published:
        print(f"warning: a column of {path} has no name and is left out", file=sys.stderr)
    if not published:
        _warn_misspelled(header, known, path)
    return header


def _warn_misspelled(header: Sequence[str], known: set[str], path: Path) -> None:
    """Warns of tags that look like a known column."""
    for name in header:
        meant = difflib.get_close_matches(name.casefold(), sorted(known - set(header)), 1, 0.8)
        if name not in known and meant:
            print(
                f"warning: the column '{name}' of {path} becomes a tag; is '{meant[0]}' meant?",
                file=sys.stderr,
            )


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file in UTF-8, completely or not at all."""
    with (
        atomic_file(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(rows)
