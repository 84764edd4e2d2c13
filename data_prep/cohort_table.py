"""The cohort table: which slide or image belongs to which patient and split."""

import csv
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_file
from stedm_jax.data.schema import SPLITS, check_disjoint

FILES = ("mask", "annotation")
"""Optional columns that name files, several separated by ";"."""
EXTRAS = ("mpp", "annotation", "annotation_origin", "mask")
"""Columns that the commands understand; everything else is a tag."""


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

    def mpp(self, table: Path) -> float | None:
        """Microns per pixel by the column mpp of the table, None where empty.

        Raises:
          UserError: it is no number.
        """
        text = self.extra.get("mpp", "")
        try:
            return float(text) if text else None
        except ValueError as error:
            raise UserError(
                f"{table} line {self.line}: mpp='{text}' is no number; write it like 0.25."
            ) from error


def parse_splits(text: str) -> dict[str, str]:
    """Reads "train:P1,P2;test:P3" as patient -> split.

    Raises:
      UserError: an unknown split, or a patient in two.
    """
    groups: dict[str, list[str]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        split, colon, names = part.partition(":")
        if not colon or split.strip() not in SPLITS:
            raise UserError(
                f"--splits has '{part}'; write SPLIT:PATIENT,PATIENT with a split of "
                f"{', '.join(SPLITS)}."
            )
        patients = groups.setdefault(split.strip(), [])
        patients += filter(None, map(str.strip, names.split(",")))
    check_disjoint(groups, "--splits")
    return {name: split for split, names in groups.items() for name in names}


def assign(rows: Sequence[Row], splits: Mapping[str, str], tag: str = "own_split") -> list[Row]:
    """Gives patients the splits of the option --splits, if there are any.

    Args:
      rows: the cohort.
      splits: patient -> split.
      tag: name of the tag that keeps the split that a row had; "": it is not kept.

    Raises:
      UserError: a patient has no split, or --splits names one that is not there.
    """
    if not splits:
        return list(rows)
    patients = {row.patient for row in rows}
    missing, unknown = sorted(patients - set(splits)), sorted(set(splits) - patients)
    if missing or unknown:
        raise UserError(
            "--splits must name each patient once; missing are: "
            f"{', '.join(missing[:20]) or 'none'}; unknown are: "
            f"{', '.join(unknown[:20]) or 'none'}."
        )
    return [
        replace(
            row,
            split=splits[row.patient],
            tags=row.tags | ({tag: row.split} if tag and row.split else {}),
        )
        for row in rows
    ]


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
      splits: patient -> split; takes precedence over the column split, which may then be missing
        and otherwise becomes the tag table_split.

    Raises:
      UserError: no such table, a missing column, an empty or unknown cell, a file named twice, a
        patient in two splits.
    """
    if not path.is_file():
        raise UserError(
            f"There is no table {path}; --table must name a CSV file with {key}, patient, split."
        )
    must = (key, "patient", *(() if splits else ("split",)), *needed)
    extras = (*needed, *optional)
    rows = [
        Row(
            cells[key],
            cells["patient"],
            cells.get("split", ""),
            {column: cells.get(column, "") for column in extras},
            {name: text for name, text in cells.items() if name not in (*must, *extras, "split")},
            line,
        )
        for line, cells in read_cells(path, must, (*optional, "split"))
    ]
    rows = assign(rows, splits or {}, "table_split")
    for row in rows:
        _check_row(row, path, key)
    check_cohort(rows, f"the table {path}")
    _check_names(rows, path, key)
    return rows


def read_cells(
    path: Path, must: Sequence[str], optional: Sequence[str] = (), published: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row that is not empty; the separator is a comma,
    semicolon or tab.

    Args:
      path: a CSV file.
      must: columns that must be there, in upper or lower case.
      optional: further columns that are known.
      published: a table that the user did not write, in which rows may be ragged.

    Raises:
      UserError: it is no such table, lacks a column, or has ragged rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            separator = next((mark for mark in ",;\t" if mark in first), ",")
            reader = csv.DictReader(file, delimiter=separator)
            header = [name.strip() for name in reader.fieldnames or []]
            header = reader.fieldnames = _known_names(header, {*must, *optional}, path)
            missing = [column for column in must if column not in header]
            if missing:
                raise UserError(
                    f"The table {path} has no column {', '.join(missing)}; it has "
                    f"{', '.join(header) or 'nothing'}. It needs {', '.join(must)}."
                )
            for entry in reader:
                surplus, short = entry.pop(None, []), list(entry.values()).count(None)
                if (surplus or short) and not published:
                    raise UserError(
                        f"{path} line {reader.line_num} has {len(header) + len(surplus) - short} "
                        f"cells and the header {len(header)}; add or remove separators."
                    )
                cells = {name: (text or "").strip() for name, text in entry.items()}
                if any(cells.values()):
                    yield reader.line_num, cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"The table {path} is no CSV in UTF-8 ({error}); save it again as such."
        ) from error


def _known_names(header: Sequence[str], known: set[str], path: Path) -> list[str]:
    """The header with known columns spelled in lower case; warns of tags that look like a known
    column."""
    lower = {name.casefold(): name for name in known}
    spelled = [name if name in known else lower.get(name.casefold(), name) for name in header]
    for name in spelled:
        meant = difflib.get_close_matches(name.casefold(), sorted(known - set(spelled)), 1, 0.8)
        if name not in known and meant:
            print(
                f"warning: the column '{name}' of {path} becomes a tag; is '{meant[0]}' meant?",
                file=sys.stderr,
            )
    return spelled


def _check_row(row: Row, path: Path, key: str) -> None:
    where = f"{path} line {row.line}"
    for column, text in ((key, row.file), ("patient", row.patient), ("split", row.split)):
        if not text:
            raise UserError(f"{where}: the column {column} is empty; fill it in.")
    files = [(name, part) for name in FILES for part in row.extra.get(name, "").split(";")]
    for column, text in [(key, row.file), *files]:
        within = PurePath(text.strip())
        if within.is_absolute() or ".." in within.parts:
            raise UserError(
                f"{where}: {column}='{text.strip()}' must be a path within its folder, without "
                "'..'."
            )


def check_cohort(rows: Sequence[Row], where: str) -> None:
    """Refuses an empty cohort, an unknown split, or a patient in two.

    Raises:
      UserError: names the line or the patients.
    """
    if not rows:
        raise UserError(f"{where[:1].upper()}{where[1:]} has no row; add a line for each file.")
    patients: dict[str, list[str]] = {}
    for row in rows:
        if row.split not in SPLITS:
            raise UserError(
                f"{where} line {row.line}: unknown split '{row.split}' of {row.file}; use one of "
                f"{', '.join(SPLITS)}."
            )
        patients.setdefault(row.split, []).append(row.patient)
    check_disjoint(patients, where)


def _check_names(rows: Sequence[Row], path: Path, key: str) -> None:
    """Refuses a file that is named twice, and patients of different splits whose names differ in
    case or spaces only."""
    files: dict[str, int] = {}
    patients: dict[str, Row] = {}
    for row in rows:
        before = files.setdefault(PurePath(row.file).as_posix(), row.line)
        if before != row.line:
            raise UserError(
                f"{path} line {row.line}: {key} '{row.file}' stands in line {before} already; "
                "remove one."
            )
        other = patients.setdefault("".join(row.patient.split()).casefold(), row)
        if other.patient != row.patient and other.split != row.split:
            raise UserError(
                f"The table {path} has patient '{other.patient}' in {other.split} and "
                f"'{row.patient}' in {row.split}, which differ in case or spaces only. If they are "
                "one patient, spell them alike; if not, rename one of them."
            )


def check_files(rows: Sequence[Row], folder: Path, option: str) -> dict[int, str]:
    """By number of the row, which files are not there.

    Raises:
      UserError: none of them is there, or the table names one twice by links.
    """
    missing = {
        number: f"{row.file} is not in {option}={folder}; put it there, or correct line {row.line} "
        "of the table."
        for number, row in enumerate(rows)
        if not (folder / row.file).exists()
    }
    if len(missing) == len(rows):
        raise UserError(f"None of the files of the table is there. {missing[0]}")
    seen: dict[Path, Row] = {}
    for row in rows:
        other = seen.setdefault((folder / row.file).resolve(), row)
        if other is not row:
            raise UserError(
                f"'{row.file}' in line {row.line} of the table is the same file as '{other.file}' "
                f"in line {other.line}; remove one."
            )
    return missing


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file in UTF-8, completely or not at all."""
    with (
        atomic_file(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(rows)


def write_cohort(path: Path, key: str, rows: Sequence[Row]) -> None:
    """Writes the cohort as a table that data_prep.slides or data_prep.folder reads: which file went
    where."""
    extras = [name for name in EXTRAS if any(row.extra.get(name) for row in rows)]
    tags = sorted({name for row in rows for name in row.tags})
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [*extras, *tags]
    lines = [
        [
            row.file,
            row.patient,
            row.split,
            *((row.extra | row.tags).get(name, "") for name in names),
        ]
        for row in rows
    ]
    write_csv(path, [[key, "patient", "split", *names], *lines])
