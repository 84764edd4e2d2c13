"""Writes tile sets, real or synthetic, as files that other programs read.

    python -m data_prep.export --tiles=DIR[,DIR] --out=OUT [--format=folder|nnunet]

folder: PNG images and masks, outlines as GeoJSON (QuPath), and COCO. nnunet: the raw folder of
nnU-Net version 2, OUT being DatasetNNN_NAME. Both get README.md, a card of the data set, and
tiles.csv, which has all that is known of each tile, provenance of synthetic tiles too. Several sets
of the same classes, such as real tiles and synthetic ones, become one export.

Pixels stay as they are. OUT appears when it is complete; after an interruption, run it again.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_prep.command import Progress, make_parser, names_list, run_command
from data_prep.exporting.card import UNKNOWN, Rows, write_card
from data_prep.exporting.exported import Exported, Item, Whole, labels_without
from data_prep.exporting.form import Form
from data_prep.exporting.nnunet import NnUNet
from data_prep.exporting.plain import Plain
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_folder, sweep
from stedm_jax.common.processors import cores

AT_ONCE = 64
"""Tiles that are held at once."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("export", __doc__)
    add = parser.option
    add("tiles", [], "tile sets: folders or URLs, separated by commas", type=names_list)
    add("out", None, "folder to write", type=Path, required=True)
    add("format", "folder", "what to write (folder)", choices=("folder", "nnunet"))
    add("classes", "", "those of the export, as background=stroma,gland (those of the sets)")
    add("background", None, "class that is not outlined and is 0 in nnU-Net (the first); '': none")
    add("license", "", "of the images, for the card")
    add("overwrite", False, "replace a folder that stands at OUT")
    args = parser.parse_args(argv)
    if not args.tiles:
        raise UserError(
            "--tiles names no tile set; give the folder of one, or several with commas."
        )
    if args.out.exists() and not args.overwrite:
        raise UserError(
            f"{args.out} exists already; give another --out, or --overwrite to replace it."
        )
    if args.overwrite and args.out.exists() and not (args.out / "tiles.csv").is_file():
        raise UserError(f"{args.out} is no export, which --overwrite would replace; name another.")
    return args


def make_form(args: argparse.Namespace, folder: Path, exported: Exported) -> Form:
    """The form that was asked for, in a new folder.

    Raises:
      UserError: it does not fit.
    """
    classes = exported.classes
    background = classes[0].name if args.background is None else args.background
    labels = labels_without(classes, background)
    if args.format == "nnunet":
        return NnUNet(folder, args.out.name, classes, labels, args.license or UNKNOWN)
    splits = dict.fromkeys(item.row.split for item in exported.items)
    return Plain(folder, classes, labels, list(splits))


def write_items(
    folder: Path, form: Form, exported: Exported, items: Sequence[Item]
) -> Iterator[tuple[Item, Whole, Any]]:
    """Writes tiles in threads; yields them in order, with what the form found."""

    def one(item: Item) -> tuple[Item, Whole, Any]:
        whole = exported.read(item)
        return item, whole, form.write(folder, item, whole)

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(items), AT_ONCE):
            yield from pool.map(one, items[start : start + AT_ONCE])


def export(args: argparse.Namespace) -> int:
    """Writes an export, and returns the number of its tiles.

    Raises:
      UserError: something is wrong with the sets or the options.
    """
    exported = Exported(args.tiles, args.classes)
    args.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    sweep(args.out)
    with atomic_folder(args.out) as folder:
        form = make_form(args, folder, exported)
        items = [item for item in exported.items if form.place(item)]
        if not items:
            raise UserError("No tile of the sets is labeled; there is nothing to train on.")
        rows, progress = Rows(exported, form), Progress("export", len(items), "tiles")
        for done, (item, whole, found) in enumerate(
            write_items(folder, form, exported, items), start=1
        ):
            form.add(item, found)
            rows.add(item, whole)
            progress.update(done)
        form.finish(folder, items)
        rows.write(folder / "tiles.csv")
        write_card(folder / "README.md", args.out.name, exported, items, rows, args.license)
    return len(items)


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    print(f"{export(args):,} tiles in {args.out}")
    return 0


if __name__ == "__main__":
    run_command(main)
