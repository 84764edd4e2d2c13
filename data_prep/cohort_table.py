"""The cohort table: which slide or image belongs to which patient and split."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from data_prep.csv_file import read_cells, write_csv
from data_prep.on_disk import alike, on_disk
from data_prep.spelling import as_number, is_missing, nfc, split_outside_quotes, unquoted
from stedm_jax.common.errors import UserError
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
        patients += filter(None, map(unquoted, split_outside_quotes(names, ",")))
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
    _check_known(rows, path)
    check_cohort(rows, f"the table {path}")
    _check_names(rows, path, key)
    return rows


def _check_row(row: Row, path: Path, key: str) -> None:
    where = f"{path} line {row.line}"
    for column, text in ((key, row.file), ("split", row.split)):
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


def _check_known(rows: Sequence[Row], path: Path) -> None:
    """Refuses patients who are a missing value."""
    if absent := [row for row in rows if is_missing(row.patient)]:
        some = ", ".join(f"{row.line} ('{row.patient}')" for row in absent[:20])
        raise UserError(
            f"{path}: no patient is known in the lines {some}{' and more' * (len(absent) > 20)}. "
            "Files of unknown patients would count as one patient; fill the column patient in, "
            "with a name of its own where each is another patient."
        )


def _check_names(rows: Sequence[Row], path: Path, key: str) -> None:
    """Refuses a file that is named twice, and patients of different splits who are likely to be
    one; warns of such patients within a split."""
    files: dict[str, int] = {}
    patients: dict[str, dict[str, Row]] = {}
    for row in rows:
        before = files.setdefault(PurePath(row.file).as_posix(), row.line)
        if before != row.line:
            raise UserError(
                f"{path} line {row.line}: {key} '{row.file}' stands in line {before} already; "
                "remove one."
            )
        patients.setdefault(as_number(row.patient), {}).setdefault(row.patient, row)
    for one, *others in ([*group.values()] for group in patients.values()):
        if not others:
            continue
        whose = " and ".join(f"'{row.patient}' (line {row.line})" for row in (one, *others))
        if other := next((row for row in others if row.split != one.split), None):
            raise UserError(
                f"The table {path} has patient '{one.patient}' in {one.split} and "
                f"'{other.patient}' in {other.split}, which differ in case, spaces or zeros only "
                f"({whose}). If they are one patient, spell them alike; if not, rename one of them."
            )
        print(
            f"warning: the patients {whose} of {path} differ in case, spaces or zeros only and "
            "count as different ones; if they are one patient, spell them alike",
            file=sys.stderr,
        )


def check_files(rows: Sequence[Row], folder: Path, option: str) -> tuple[list[Row], dict[int, str]]:
    """Finds the files of a table.

    Returns:
      The rows, with the endings of files where the table leaves them out; and by number of the row,
      which files are not there.

    Raises:
      UserError: none of them is there, or the table names one twice.
    """
    found, missing, seen = [], {}, {}
    for number, row in enumerate(rows):
        try:
            path = on_disk(folder, row.file)
        except UserError as error:
            path, missing[number] = folder / row.file, str(error)
        file = PurePath(row.file)
        row = replace(row, file=str(file.with_name(nfc(path.name))) if path.exists() else row.file)
        found.append(row)
        if number not in missing and not path.exists():
            close = ", ".join(alike(folder, row.file))
            hint = f" (there is {close})" if close else ""
            missing[number] = (
                f"{row.file} is not in {option}={folder}; put it there, or correct line {row.line} "
                f"of the table{hint}."
            )
        other = seen.setdefault(path.resolve(), row)
        if other is not row:
            raise UserError(
                f"'{row.file}' in line {row.line} of the table is the same file as '{other.file}' "
                f"in line {other.line}; remove one."
            )
    if len(missing) == len(rows):
        raise UserError(f"None of the files of the table is there. {missing[0]}")
    return found, missing


def note_unused(rows: Sequence[Row], what: str) -> None:
    """Says which rows of the split style have labels, which are not used."""
    if rows:
        some = ", ".join(row.file for row in rows[:5]) + (" and more" if len(rows) > 5 else "")
        print(
            f"note: {len(rows)} rows of the split style have a {what} that is not used, since "
            f"style is never annotated: {some}. Give them another split if it is to count."
        )


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
