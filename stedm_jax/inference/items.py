"""Which images a command is about, and whose they are."""

import argparse
import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from stedm_jax.common.errors import UserError
from stedm_jax.data.whole import WholeImage, WholeSet
from stedm_jax.imaging.find_images import find_images, is_slide


@dataclass(frozen=True)
class Item:
    """An image to be segmented.

    Attributes:
      name: below OUT.
      path, mpp: its file, and microns per pixel where that does not say.
      is_slide: whether it is read in pieces, at its own microns.
      row: of a set of whole images with truth, else None.
      truth: a mask of class ids, or None.
      patient, part: whose it is, and the part of the test that it belongs to.
    """

    name: str
    path: Path
    mpp: float | None
    is_slide: bool = False
    row: WholeImage | None = None
    truth: Path | None = None
    patient: str = ""
    part: str = "all"


def list_items(args: argparse.Namespace) -> tuple[list[Item], WholeSet | None]:
    """The images that the options name, and the set that they are of, if they are of one.

    Raises:
      UserError: there is none, or nothing says the microns per pixel, or whose they are.
    """
    if not args.images.exists():
        raise UserError(f"There is no {args.images}; --images is a folder or a file.")
    if WholeSet.is_one(args.images):
        whole = WholeSet.open(args.images)
        return _of_set(whole, args), whole
    root = args.images if args.images.is_dir() else args.images.parent
    paths = {str(path.relative_to(root)): path for path in find_images(args.images)}
    slides = {path for path in paths.values() if is_slide(path)}
    silent = [path for path in paths.values() if path not in slides] if args.mpp is None else []
    if silent:
        raise UserError(
            f"{len(silent)} images such as {silent[0]} do not say their microns per pixel; give "
            "them: --mpp=0.5."
        )
    if args.region and not slides:
        raise UserError(f"--region is a part of slides, and {args.images} has none; leave it out.")
    patients = _patients(args.table, list(paths), args.part) if args.table else {}
    items = []
    for file, path in paths.items():
        name = str(Path(file).with_suffix(""))
        truth = args.truth / f"{name}.png" if args.truth else None
        whose = patients.get(file, (name, "all"))
        items.append(Item(name, path, args.mpp, path in slides, None, truth, *whose))
    _check_truth(items, args.truth)
    return items, None


def _check_truth(items: Sequence[Item], folder: Path | None) -> None:
    """Refuses images without truth before any is segmented.

    Raises:
      UserError: how many there are, and some of their masks.
    """
    missing = [str(item.truth) for item in items if item.truth and not item.truth.is_file()]
    if not missing:
        return
    if len(missing) == len(items):
        raise UserError(f"--truth={folder} has no mask of these images; one is {missing[0]}, say.")
    raise UserError(
        f"--truth={folder} lacks the masks of {len(missing)} of {len(items)} images: "
        f"{', '.join(missing[:5])}{' and others' if missing[5:] else ''}. Add them, or take these "
        "images out of the folder."
    )


def _of_set(whole: WholeSet, args: argparse.Namespace) -> list[Item]:
    if args.truth:
        raise UserError(f"{args.images} holds its truth already; leave out --truth.")
    rows = [row for row in whole.images if row.split in args.splits.split(",")]
    if not rows:
        there = ", ".join(sorted({row.split for row in whole.images}))
        raise UserError(f"{args.images} has no images of --splits={args.splits}; it has {there}.")
    return [
        Item(row.name, whole.path / row.image, row.mpp, row=row, patient=row.patient)
        for row in rows
    ]


def _patients(table: Path, files: Sequence[str], part: str) -> dict[str, tuple[str, str]]:
    """Patient and part of each file, from a table with the columns image, patient and, if there is
    one, that of the part; the separator is a comma, semicolon or tab.

    Raises:
      UserError: it is no such table, or lacks a file.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
        marks = [mark for mark in ",;\t" if mark in text.partition("\n")[0]]
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=(marks or [","])[0]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--table={table} cannot be read as CSV in UTF-8 ({error}).") from error
    header = [] if not rows else list(rows[0])
    if not {"image", "patient"} <= set(header):
        raise UserError(
            f"--table={table} needs the columns image and patient; it has "
            f"{', '.join(map(str, header)) or 'no rows'}."
        )
    known: dict[str, tuple[str, str]] = {}
    for row in rows:
        image, patient = ((row[name] or "").strip() for name in ("image", "patient"))
        whose = (patient, (row.get(part) or "").strip() or "all")
        if image and known.setdefault(_plain(image), whose) != whose:
            raise UserError(f"--table={table} names {image} twice, and not alike; remove a row.")
    found = {
        file: known.get(_plain(file)) or known.get(_plain(file.removesuffix(PurePath(file).suffix)))
        for file in files
    }
    without = [file for file, whose in found.items() if not whose or not whose[0]]
    if without:
        raise UserError(
            f"--table={table} has no patient of {', '.join(without[:10])}"
            f"{' and others' if without[10:] else ''}; add a row for each image."
        )
    return {file: whose for file, whose in found.items() if whose}


def _plain(name: str) -> str:
    """One spelling of a file's name, however its accents are written."""
    return unicodedata.normalize("NFC", PurePath(name).as_posix())


def inputs_of(items: Sequence[Item], whole: WholeSet | None) -> Iterator[Path]:
    """Every file that is read."""
    for item in items:
        yield item.path
        if item.truth:
            yield item.truth
        if whole and item.row:
            yield from (whole.path / each for each in (item.row.mask, item.row.instances))
    if whole:
        yield from (whole.path / each for each in ("index.csv", "manifest.json"))
