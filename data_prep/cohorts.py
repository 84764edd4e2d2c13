"""What the commands of published data sets share: is the source there, who is labelled, the table
of the cohort."""

import csv
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.cohort_table import Row
from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import SPLITS, check_disjoint

EXTRAS = ("mpp", "annotation", "annotation_origin", "mask")
"""Columns that the reader of tables knows; all else in a row is a tag."""


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
      title: its name.
      home: where it is to be had, in words, with the address of its page.
      licence: its terms, as far as they are known.
      files: what the folder must hold, in words, one entry for each kind of file.
    """

    title: str
    home: str
    licence: str
    files: tuple[str, ...]

    def refuse(self, folder: Path, found: str) -> UserError:
        """The error for a folder that does not hold the data set: what was found, expected, and
        where it is had."""
        expected = "".join(f"\n  - {line}" for line in self.files)
        return UserError(
            f"--source={folder} does not hold {self.title}: {found}. Expected there:{expected}\n"
            f"It is to be had from {self.home}. Terms: {self.licence}."
        )

    def check(self, folder: Path, needed: Mapping[str, bool]) -> None:
        """Refuses a folder that lacks something.

        Args:
          folder: value of --source.
          needed: what is missing, in words -> whether it is there.

        Raises:
          UserError: names what is missing, what was expected and where the data set is to be had.
        """
        if not folder.is_dir():
            raise self.refuse(folder, "there is no such folder")
        missing = [text for text, there in needed.items() if not there]
        if missing:
            raise self.refuse(folder, f"it has no {', no '.join(missing)}")


def draw(names: Iterable[str], key: str, seed: int) -> list[str]:
    """Names in a random order that depends on the key and the seed only, not on the order they came
    in."""
    ordered = sorted(set(names))
    rng = np.random.default_rng((seed, zlib.crc32(key.encode())))
    return [ordered[i] for i in rng.permutation(len(ordered))]


def release(rows: Sequence[Row], group: str, labelled: int, seed: int) -> list[Row]:
    """Keeps `labelled` training files of each group annotated and gives the others the split
    "style".

    Args:
      rows: the cohort.
      group: the tag by which files are counted ("subtype", "score").
      labelled: files of each group to keep; 0 keeps all. A patient is kept whole.
      seed: for the choice.

    Returns:
      The cohort in its order. A patient with files in several groups counts in each of them, and is
      kept if all have room.

    Raises:
      UserError: a training file has no such tag.
    """
    if not labelled:
        return list(rows)
    groups: dict[str, dict[str, int]] = {}
    patients: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.split == "train":
            if not row.tags.get(group):
                raise UserError(
                    f"{row.file} says nothing under '{group}', by which --labelled counts; fill it in."
                )
            for sizes, key in (
                (groups.setdefault(row.tags[group], {}), row.patient),
                (patients.setdefault(row.patient, {}), row.tags[group]),
            ):
                sizes[key] = sizes.get(key, 0) + 1
    kept: set[str] = set()
    left = dict.fromkeys(groups, labelled)
    for name in sorted(groups):
        for patient in draw(groups[name], name, seed):
            if patient not in kept and all(
                count <= left[of] for of, count in patients[patient].items()
            ):
                kept.add(patient)
                left = {of: most - patients[patient].get(of, 0) for of, most in left.items()}
    return [
        replace(row, split="style") if row.split == "train" and row.patient not in kept else row
        for row in rows
    ]


def divide(
    names: Iterable[str], shares: Mapping[str, float], key: str, seed: int
) -> dict[str, str]:
    """Divides names among splits at random: name -> split.

    Args:
      names: patients.
      shares: split -> share of the names; the last split takes the rest. Each gets one at least
        while there are any.
      key, seed: as in draw.
    """
    order, result, splits = draw(names, key, seed), {}, list(shares)
    left = len(order)
    for number, split in enumerate(splits):
        last = number == len(splits) - 1
        count = left if last else min(max(round(shares[split] * len(order)), 1), left)
        for name in order[len(order) - left : len(order) - left + count]:
            result[name] = split
        left -= count
    return result


def assign(rows: Sequence[Row], splits: Mapping[str, str]) -> list[Row]:
    """Gives patients the splits of the option --splits; the split of the data set stays as the tag
    own_split.

    Raises:
      UserError: a patient stands in no split, or --splits names one that is not there.
    """
    if not splits:
        return list(rows)
    patients = {row.patient for row in rows}
    missing, strangers = sorted(patients - set(splits)), sorted(set(splits) - patients)
    if missing or strangers:
        raise UserError(
            f"--splits must name each patient once; missing are: {', '.join(missing[:20]) or 'none'}; unknown are: "
            f"{', '.join(strangers[:20]) or 'none'}."
        )
    return [
        replace(row, split=splits[row.patient], tags=row.tags | {"own_split": row.split})
        for row in rows
    ]


def check_rows(rows: Sequence[Row], where: str) -> None:
    """Refuses an empty cohort, an unknown split, or a patient in two.

    Raises:
      UserError: names the file or the patients.
    """
    if not rows:
        raise UserError(f"{where} names no file that is there; nothing can be packed.")
    patients: dict[str, list[str]] = {}
    for row in rows:
        if row.split not in SPLITS:
            raise UserError(
                f"{where}: {row.file} has the split '{row.split}'; use one of {', '.join(SPLITS)}."
            )
        patients.setdefault(row.split, []).append(row.patient)
    check_disjoint(patients, where)


def write_cohort(path: Path, key: str, rows: Sequence[Row]) -> None:
    """Writes the cohort as a table that data_prep.slides or data_prep.folder reads: which file went
    where."""
    extras = [name for name in EXTRAS if any(row.extra.get(name) for row in rows)]
    tags = sorted({name for row in rows for name in row.tags})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([key, "patient", "split", *extras, *tags])
        for row in rows:
            values = [row.extra.get(name, "") for name in extras] + [
                row.tags.get(name, "") for name in tags
            ]
            table.writerow([row.file, row.patient, row.split, *values])
    partial.replace(path)


def describe(rows: Sequence[Row], group: str = "") -> str:
    """One line of numbers: files and patients of each split, and of each group within."""
    parts = []
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split]
        if not chosen:
            continue
        text = f"{split} {len(chosen)} files of {len({row.patient for row in chosen})} patients"
        if group:
            counts: dict[str, int] = {}
            for row in chosen:
                name = row.tags.get(group, "")
                counts[name] = counts.get(name, 0) + 1
            text += (
                " (" + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) + ")"
            )
        parts.append(text)
    return "; ".join(parts)


def read_csv(path: Path, needed: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a published table, header and cells stripped of spaces.

    Raises:
      UserError: it is no such table, or has not the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            header = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            missing = [name for name in needed if name not in header]
            if missing:
                raise UserError(
                    f"The table {path} has no column {', '.join(missing)}; it has {', '.join(header) or 'nothing'}. "
                    "Is it the published one?"
                )
            return [
                {name: (text or "").strip() for name, text in row.items() if name} for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"The table {path} is no CSV in UTF-8 ({error}); fetch it again."
        ) from error
