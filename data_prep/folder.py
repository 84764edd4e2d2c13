"""Cuts a folder of images and masks into tile records.

    python -m data_prep.folder --images=DIR --masks=DIR --table=CSV --classes=a,b --mpp=1.0 --out=DIR

The table has the columns image, mask (empty where there is none), patient, split (train, val, test, or style:
never annotated), and may have mpp (microns per pixel of the image; goes before --source_mpp). Any other
column becomes a tag of every tile. Masks hold class ids by the order of --classes, and 255 where unlabelled.

The last row and column of tiles are shifted inwards. In val and test, the pixels that an earlier tile has are
unlabelled there, so that no pixel counts twice; --stride holds for train and style only.

Exit status: 0 packed; 2 nothing was packed, because of the error that is told.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.classes import palette, parse_classes
from data_prep.command import Progress, identifier, run_command
from data_prep.images import Picture, fit_picture, read_picture, scale_picture
from data_prep.table import Row, check_files, parse_splits, read_table
from data_prep.tiling import covering_starts
from stedm_jax.data.records import TileWriter
from stedm_jax.data.schema import VOID, ClassSpec, Tile
from stedm_jax.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    about = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.folder",
        description=about[0],
        epilog="\n\n".join(about[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder that the column image is relative to")
    add("--masks", type=Path, required=True, help="folder that the column mask is relative to")
    add("--table", type=Path, required=True, help="CSV with image, mask, patient, split")
    add("--classes", required=True, help="class names by id: background,gland")
    add("--out", type=Path, required=True, help="folder of the tile set")
    add("--tile", type=int, default=256, help="side of the tiles in pixels (256)")
    add("--stride", type=int, default=0, help="pixels from tile to tile in train and style (as --tile)")
    add("--mpp", type=float, help="microns per pixel of the tiles (those of the images)")
    add("--source_mpp", type=float, help="microns per pixel of the images (as --mpp)")
    add("--fit", action="store_true", help="scale each image so that its shorter side is --tile")
    add("--values", help="values in the masks by class id, e.g. 0,255 (0,1,2,...)")
    add("--splits", default="", help="splits by patient, train:P1,P2;test:P3 (the column split of the table)")
    add("--codec", default="png", help="png, or jpeg50 to jpeg100 (png)")
    add("--name", help="name of the data set (that of OUT)")
    add("--overwrite", action="store_true", help="replace a tile set that stands at OUT")
    return parser.parse_args(argv)


def parse_values(text: str | None, classes: Sequence[str]) -> tuple[int, ...]:
    """Value in the masks of each class.

    Raises:
      UserError: not one number between 0 and 255 for each class.
    """
    if text is None:
        return tuple(range(len(classes)))
    parts = [part.strip() for part in text.split(",")]
    values = tuple(int(part) for part in parts if part.isdigit() and int(part) <= 255)
    if len(values) != len(parts) or len(set(values)) != len(classes) or len(values) != len(classes):
        raise UserError(
            f"--values={text} must hold {len(classes)} different numbers of 0 to 255, as many as --classes."
        )
    return values


def choose_scale(row: Row, args: argparse.Namespace) -> tuple[float, float]:
    """Microns per pixel of the tiles, and source pixels for each of theirs.

    Raises:
      UserError: nobody says, or the images are coarser than the tiles are to be.
    """
    own = row.number("mpp", args.table)
    source = own if own is not None else args.source_mpp if args.source_mpp is not None else args.mpp
    if source is None:
        raise UserError(
            "Nobody says how many microns a pixel has: give --mpp (of the tiles), and --source_mpp "
            "or a column mpp in the "
            "table if the images have another resolution."
        )
    mpp = args.mpp if args.mpp is not None else source
    if not (0.01 <= source <= 1000 and 0.01 <= mpp <= 1000):
        raise UserError(f"Image {row.file}: {source:g} and {mpp:g} um per pixel are not both within 0.01 to 1000.")
    ratio = mpp / source
    if ratio < 0.99 and not args.fit:
        raise UserError(
            f"Image {row.file} has {source:g} um per pixel and cannot give {mpp:g}; set --mpp to at least {source:g}."
        )
    return mpp, 1.0 if abs(ratio - 1) < 0.01 else ratio


def cut_picture(picture: Picture, tile: int, stride: int, once: bool) -> Iterator[tuple[int, int, Picture]]:
    """Cuts a picture into tiles that cover it.

    Args:
      picture: image and mask, at least one tile large.
      tile, stride: in pixels.
      once: mask what an earlier tile has, so that every labelled pixel is in exactly one tile.

    Yields:
      (y, x, tile) by rows.
    """
    height, width = picture.mask.shape
    left = picture.mask.copy()
    for y in covering_starts(height, tile, stride):
        for x in covering_starts(width, tile, stride):
            box = np.s_[y : y + tile, x : x + tile]
            yield y, x, Picture(np.ascontiguousarray(picture.image[box]), left[box].copy())
            if once:
                left[box] = VOID


def picture_tiles(row: Row, args: argparse.Namespace, values: Sequence[int]) -> Iterator[Tile]:
    """All tiles of one image of the table, those without a label among them."""
    mask = args.masks / row.extra["mask"] if row.extra["mask"] and row.split != "style" else None
    picture = read_picture(args.images / row.file, mask, values)
    mpp, ratio = choose_scale(row, args)
    if args.fit:
        ratio = min(picture.mask.shape) / args.tile
        picture = fit_picture(picture, args.tile)
    elif ratio != 1:
        picture = scale_picture(picture, ratio)
    height, width = picture.mask.shape
    if min(height, width) < args.tile:
        raise UserError(
            f"Image {row.file} is {width}x{height} pixels at {mpp:g} um, smaller than a tile of "
            f"{args.tile}; set a smaller "
            "--tile, or --fit to scale each image to it."
        )
    once = row.split in ("val", "test")
    stride = args.tile if once else args.stride or args.tile
    for y, x, part in cut_picture(picture, args.tile, stride, once):
        yield Tile(
            image=part.image,
            mask=part.mask,
            patient=row.patient,
            slide=row.file,
            split=row.split,
            x=round(x * ratio),
            y=round(y * ratio),
            level=0,
            mpp=mpp,
            tags=row.tags,
        )


def pack(args: argparse.Namespace, quiet: bool = False) -> dict[str, int]:
    """Packs the images that the table names.

    Returns:
      Tiles of each split, and under "unlabelled" how many were left out because nothing in them is labelled.

    Raises:
      UserError: anything amiss; nothing is written then.
    """
    for option in ("images", "masks"):
        if not getattr(args, option).is_dir():
            raise UserError(f"--{option}={getattr(args, option)} is no folder; correct the path.")
    for option, least in (("tile", 8), ("stride", 0)):
        if not least <= getattr(args, option) <= 8192:
            raise UserError(f"--{option}={getattr(args, option)} is out of range; give {least} to 8192.")
    names = list(parse_classes(args.classes))
    values = parse_values(args.values, names)
    rows = read_table(args.table, "image", needed=("mask",), optional=("mpp",), splits=parse_splits(args.splits))
    check_files(rows, args.images, "--images")
    bare = [row.file for row in rows if row.split != "style" and not (args.masks / row.extra["mask"]).is_file()]
    if bare:
        raise UserError(
            f"{len(bare)} images of annotated splits have no mask in --masks={args.masks}: "
            f"{', '.join(bare[:5])}. Fill the "
            "column mask in, or give them the split 'style'."
        )
    options = ("classes", "tile", "stride", "mpp", "source_mpp", "fit", "values", "splits")
    source = {"prepared_by": "data_prep.folder", "table": args.table.name}
    writer = TileWriter(
        args.out,
        name=args.name or identifier(args.out.name),
        classes=[ClassSpec(name, palette(i)) for i, name in enumerate(names)],
        mpp=choose_scale(rows[0], args)[0],
        tile=args.tile,
        codec=args.codec,
        source=source | {option: str(getattr(args, option)) for option in options},
        overwrite=args.overwrite,
    )
    counts: dict[str, int] = {"unlabelled": 0}
    seen: set[int] = set()
    progress = Progress("images", len(rows), "images", quiet)
    with writer:
        for done, row in enumerate(rows, start=1):
            for tile in picture_tiles(row, args, values):
                ids = set(np.unique(tile.mask).tolist())
                if tile.split != "style" and ids == {VOID}:
                    counts["unlabelled"] += 1
                    continue
                seen |= ids
                writer.write(tile)
                counts[tile.split] = counts.get(tile.split, 0) + 1
            progress.update(done)
        if len(names) > 1 and args.values is None and seen == {0, VOID} and any(r.split != "style" for r in rows):
            raise UserError(
                "All masks hold only 0 and 255, and 255 means unlabelled. If 255 is the class "
                f"'{names[1]}', say "
                "--values=0,255."
            )
    return counts


def main() -> int:
    """The command."""
    args = parse_args()
    counts = pack(args)
    unlabelled = counts.pop("unlabelled")
    listed = ", ".join(f"{split} {count}" for split, count in sorted(counts.items()))
    print(f"{args.out}: {sum(counts.values())} tiles ({listed}); left out {unlabelled} without a label")
    return 0


if __name__ == "__main__":
    run_command(main)
