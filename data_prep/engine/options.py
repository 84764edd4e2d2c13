"""The options that all packing commands share."""

import argparse
import os
from pathlib import Path
from typing import Any

from data_prep.engine.executors import check_address
from data_prep.engine.job import CutRules
from stedm_jax.common.errors import UserError

STAINS = ("macenko", "reinhard")


def add_options(
    parser: argparse.ArgumentParser,
    *,
    tile: int,
    mpp: float | None,
    tissue: bool = False,
    sampling: bool = True,
) -> None:
    """Adds what all commands understand.

    Args:
      parser: of the command.
      tile: side of the tiles, where the user does not say.
      mpp: microns per pixel of the tiles, where the user does not say; None: those of the images.
      tissue: whether the command cuts slides, whose tissue is looked for.
      sampling: whether tiles may be sampled by class.
    """
    add = parser.add_argument
    meant = "those of the images" if mpp is None else f"{mpp:g}"
    add("--out", required=True, help="folder of the tile set, or gs://... or s3://...")
    add("--mpp", type=float, default=mpp, help=f"microns per pixel of the tiles ({meant})")
    add("--tile", type=int, default=tile, help=f"side of the tiles in pixels ({tile})")
    add("--margin", type=int, default=0, help="pixels of real context round each tile (0)")
    add(
        "--stride",
        type=int,
        default=0,
        help="pixels from tile to tile in train and style (as --tile: no overlap)",
    )
    if tissue:
        add(
            "--min_tissue",
            type=float,
            default=0.5,
            help="least share of tissue in a tile; 0: all tiles (0.5)",
        )
        add(
            "--glass",
            type=float,
            default=0.0,
            help="share of tiles without tissue in train and style (0)",
        )
        add("--slide_mpp", type=float, help="microns per pixel of slides that do not say")
    if sampling:
        add(
            "--sample",
            default="",
            help="in train, kinds of centre pixels: tumour:0.5,tissue:0.4,glass:0.1 (a grid)",
        )
        add("--per_slide", type=int, default=0, help="tiles that --sample takes of each slide")
    add("--max_tiles", type=int, default=0, help="most tiles of a slide, chosen by --seed (0: all)")
    add("--seed", type=int, default=0, help="of all that is chosen by chance (0)")
    add("--stain_norm", choices=STAINS, default="", help="bring all tiles to one stain (no)")
    add("--stain_target", type=Path, help="image that has that stain (the method's own)")
    add("--codec", default="png", help="png, or jpeg50 to jpeg100 (png)")
    add("--name", help="name of the data set (that of OUT)")
    add(
        "--splits",
        default="",
        help="splits by patient, train:P1,P2;test:P3 (the column split of the table)",
    )
    add(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; 1: none but this (number of cores)",
    )
    add(
        "--scheduler", default="", help="tcp://HOST:PORT of a dask scheduler, in place of --workers"
    )
    add("--limit", type=int, default=0, help="only the first so many rows of the table (0: all)")
    add("--dry_run", action="store_true", help="look at everything, write nothing")
    add(
        "--overwrite",
        action="store_true",
        help="replace a tile set that stands at OUT, and take nothing over",
    )
    add(
        "--spool",
        type=Path,
        help="folder to pack in before a remote OUT is written (beside the report)",
    )


def parse_shares(text: str) -> tuple[tuple[str, float], ...]:
    """Reads "tumour:0.5,tissue:0.4,glass:0.1"; shares come back adding up to 1.

    Raises:
      UserError: no number, not positive, or a kind twice.
    """
    shares: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, number = (piece.strip() for piece in part.rpartition(":"))
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not kind or kind in shares or not 0 < share < 1e6:
            raise UserError(
                f"--sample={text}: '{part}' is not KIND:SHARE with a positive number, or names a kind twice; write "
                "tumour:0.5,tissue:0.4,glass:0.1."
            )
        shares[kind] = share
    total = sum(shares.values())
    return tuple((kind, share / total) for kind, share in shares.items())


def check_numbers(args: argparse.Namespace) -> None:
    """Refuses numbers that make no sense, and options that need another.

    Raises:
      UserError: names the option.
    """
    limits = {
        "mpp": (0.05, 100),
        "tile": (8, 8192),
        "margin": (0, 4096),
        "stride": (0, 8192),
        "min_tissue": (0, 1),
        "glass": (0, 0.9),
        "max_tiles": (0, 1e9),
        "per_slide": (0, 1e6),
        "workers": (1, 1024),
        "limit": (0, 1e9),
        "seed": (0, 2**63),
    }
    wrong = [
        f"--{option}={value} (from {least:g} to {most:g})"
        for option, (least, most) in limits.items()
        if (value := getattr(args, option, None)) is not None and not least <= value <= most
    ]
    if wrong:
        raise UserError(f"{', '.join(wrong)} is out of range.")
    check_address(args.scheduler)
    if bool(getattr(args, "sample", "")) != bool(getattr(args, "per_slide", 0)):
        raise UserError(
            "--sample and --per_slide belong together: say which kinds, and how many tiles of each slide."
        )
    if getattr(args, "sample", "") and getattr(args, "glass", 0):
        raise UserError(
            "--glass is for grids; with --sample, name the kind: --sample=tumour:0.5,tissue:0.4,glass:0.1."
        )
    if args.stain_target is not None and not args.stain_norm:
        raise UserError(
            "--stain_target says nothing without --stain_norm=macenko or --stain_norm=reinhard."
        )
    if args.stain_target is not None and not args.stain_target.is_file():
        raise UserError(f"--stain_target={args.stain_target} is no file; name an image.")


def rules_from(args: argparse.Namespace, **fixed: Any) -> CutRules:
    """The rules of cutting that the options say.

    Args:
      args: parsed options.
      fixed: fields of CutRules that the command decides, whatever the options say.

    Raises:
      UserError: an option is out of range.
    """
    check_numbers(args)
    found = {
        "mpp": args.mpp,
        "tile": args.tile,
        "margin": args.margin,
        "stride": args.stride,
        "min_tissue": getattr(args, "min_tissue", 0.0),
        "max_tiles": args.max_tiles,
        "shares": parse_shares(getattr(args, "sample", "")),
        "per_slide": getattr(args, "per_slide", 0),
        "glass": getattr(args, "glass", 0.0),
        "complete": getattr(args, "annotation_complete", False),
        "rois": tuple(
            name.strip() for name in (getattr(args, "rois", "") or "").split(",") if name.strip()
        ),
        "seed": args.seed,
        "stain": args.stain_norm,
        "stain_target": str(args.stain_target.absolute()) if args.stain_target else "",
        "codec": args.codec,
    }
    return CutRules(**(found | fixed))
