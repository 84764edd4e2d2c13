"""The cohort table: which slide or image belongs to which patient and split."""

import csv
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import SPLITS, check_disjoint

FILES = ("mask", "annotation")
"""Optional columns that name files, several separated by ";"."""


@dataclass(frozen=True)
class Row:
    """One row of a cohort table.

    Attributes:
      file: the slide or image as the table names it.
      patient, split: of the row; the split is one of SPLITS.
      extra: the optional columns that the command knows, such as "mask", "mpp" and "annotation"; ""
        where empty.
      tags: all other columns.
      line: line of the table, for messages.
    """

    file: str
    patient: str
    split: str
    extra: dict[str, str]
    tags: dict[str, str]
    line: int

    def number(self, column: str, table: Path) -> float | None:
        """A number of an optional column, None where empty.

        Raises:
          UserError: it is no number.
        """
        text = self.extra.get(column, "")
        try:
            return float(text) if text else None
        except ValueError as error:
            raise UserError(
                f"{table} line {self.line}: {column}='{text}' is no number; write it like 0.25."
            ) from error


def parse_splits(text: str) -> dict[str, str]:
    """Reads "train:P1,P2;test:P3" as patient -> split.

    Raises:
      UserError: an unknown split, or a patient in two.
    """
    groups: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        split, colon, names = part.partition(":")
        if not colon or split.strip() not in SPLITS:
            raise UserError(
                f"--splits has '{part}'; write SPLIT:PATIENT,PATIENT with a split of {', '.join(SPLITS)}."
            )
        groups.setdefault(split.strip(), []).extend(
            name.strip() for name in names.split(",") if name.strip()
        )
    check_disjoint(groups, "--splits")
    return {name: split for split, names in groups.items() for name in names}


def read_table(
    path: Path,
    key: str,
    needed: Sequence[str] = (),
    optional: Sequence[str] = (),
    splits: Mapping[str, str] | None = None,
) -> list[Row]:
    """Reads a cohort table (CSV, UTF-8).

    Args:
      path: the table.
      key: column of the file name, "slide" or "image".
      needed: further columns that must be there, though cells may be empty.
      optional: further columns that are no tags.
      splits: patient -> split; goes before the column split, which then need not be there and
        becomes the tag table_split.

    Raises:
      UserError: no such table, a missing column, an empty or unknown cell, a file named twice, a
        patient in two splits.
    """
    if not path.is_file():
        raise UserError(
            f"There is no table {path}; --table must name a CSV file with {key}, patient, split."
        )
    must = (key, "patient", *(() if splits else ("split",)), *needed)
    known = {*must, *optional, "split"}
    rows: list[Row] = []
    for line, cells in _cells(path, must, optional):
        split = cells.get("split", "")
        tags = {name: text for name, text in cells.items() if name not in known}
        if splits:
            tags |= {"table_split": split} if split else {}
            split = _assigned(splits, cells["patient"], f"{path} line {line}")
        extra = {column: cells.get(column, "") for column in (*needed, *optional)}
        rows.append(Row(cells[key], cells["patient"], split, extra, tags, line))
    if not rows:
        raise UserError(f"The table {path} has no row; add a line for each {key}.")
    lines: dict[str, int] = {}
    for row in rows:
        _check_row(row, path, key, lines)
    patients: dict[str, list[str]] = {}
    for row in rows:
        patients.setdefault(row.split, []).append(row.patient)
    check_disjoint(patients, f"the table {path}")
    _check_spelling(patients, path)
    strangers = set(splits or {}) - {row.patient for row in rows}
    if strangers:
        raise UserError(
            f"--splits names patients that {path} does not have: {', '.join(sorted(strangers))}."
        )
    return rows


def _check_spelling(patients: Mapping[str, Sequence[str]], path: Path) -> None:
    """Refuses patients of different splits whose names differ in case or spaces only."""
    seen: dict[str, tuple[str, str]] = {}
    for split, names in patients.items():
        for name in names:
            other, where = seen.setdefault("".join(name.split()).casefold(), (name, split))
            if other != name and where != split:
                raise UserError(
                    f"The table {path} has patient '{other}' in {where} and '{name}' in {split}, which differ in case "
                    "or spaces only. If they are one, spell them alike; if not, give one another name."
                )


def _known_names(
    header: Sequence[str], must: Sequence[str], optional: Sequence[str], path: Path
) -> list[str]:
    """The header with known columns spelt as this package does; warns of tags that look like a
    known column."""
    known = {*must, *optional, "split"}
    spelt = [
        name if name in known or name.casefold() not in known else name.casefold()
        for name in header
    ]
    for name in spelt:
        meant = difflib.get_close_matches(name.casefold(), sorted(known - set(spelt)), 1, 0.8)
        if name not in known and meant:
            print(
                f"warning: the column '{name}' of {path} becomes a tag; is '{meant[0]}' meant?",
                file=sys.stderr,
            )
    return spelt


def _cells(
    path: Path, must: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row that is not empty; the separator is a comma,
    semicolon or tab."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            separator = next((mark for mark in ",;\t" if mark in first), ",")
            reader = csv.DictReader(file, delimiter=separator)
            header = [name.strip() for name in reader.fieldnames or []]
            header = reader.fieldnames = _known_names(header, must, optional, path)
            missing = [column for column in must if column not in header]
            if missing:
                raise UserError(
                    f"The table {path} has no column {', '.join(missing)}; it has "
                    f"{', '.join(header) or 'nothing'}. "
                    f"It needs {', '.join(must)}; any other column becomes a tag."
                )
            for entry in reader:
                if None in entry or None in entry.values():
                    count = sum(
                        len(cell) if isinstance(cell, list) else cell is not None
                        for cell in entry.values()
                    )
                    raise UserError(
                        f"{path} line {reader.line_num} has {count} cells and the header {len(header)}; add or remove "
                        "separators."
                    )
                if not any(text.strip() for text in entry.values()):
                    continue
                yield reader.line_num, {name: text.strip() for name, text in entry.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"The table {path} is no CSV in UTF-8 ({error}); save it again as such."
        ) from error


def _assigned(splits: Mapping[str, str], patient: str, where: str) -> str:
    if patient not in splits:
        raise UserError(
            f"{where}: patient '{patient}' stands in no split of --splits; add it there."
        )
    return splits[patient]


def _check_row(row: Row, path: Path, key: str, lines: dict[str, int]) -> None:
    where = f"{path} line {row.line}"
    for column, text in ((key, row.file), ("patient", row.patient), ("split", row.split)):
        if not text:
            raise UserError(f"{where}: the column {column} is empty; fill it in.")
    if row.split not in SPLITS:
        raise UserError(f"{where}: unknown split '{row.split}'; use one of {', '.join(SPLITS)}.")
    named = [
        (key, row.file),
        *((name, part) for name in FILES for part in row.extra.get(name, "").split(";")),
    ]
    for column, text in named:
        within = PurePath(text.strip())
        if within.is_absolute() or ".." in within.parts:
            raise UserError(
                f"{where}: {column}='{text.strip()}' must be a path within its folder, without '..'."
            )
    plain = PurePath(row.file).as_posix()
    if plain in lines:
        raise UserError(
            f"{where}: {key} '{row.file}' stands in line {lines[plain]} already; remove one."
        )
    lines[plain] = row.line


def check_files(rows: Sequence[Row], folder: Path, option: str) -> None:
    """Refuses a table none of whose files is there, or that names one twice by links.

    Raises:
      UserError: names the first of them.
    """
    missing = missing_files(rows, folder, option)
    if len(missing) == len(rows):
        raise UserError(f"None of the files of the table is there. {missing[0]}")
    lines: dict[Path, Row] = {}
    for row in rows:
        real = (folder / row.file).resolve()
        if real in lines:
            raise UserError(
                f"'{row.file}' in line {row.line} of the table is the same file as '{lines[real].file}' in line "
                f"{lines[real].line}; remove one."
            )
        lines[real] = row


def missing_files(rows: Sequence[Row], folder: Path, option: str) -> dict[int, str]:
    """By number of the row, which files are not there."""
    return {
        number: f"{row.file} is not in {option}={folder}; put it there, or correct line {row.line} of the table."
        for number, row in enumerate(rows)
        if not (folder / row.file).exists()
    }
