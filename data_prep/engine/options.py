"""The options that all packing commands share."""

import argparse
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from data_prep.command import Parser, names_list
from data_prep.engine.job import CutRules
from stedm_jax.common.errors import UserError
from stedm_jax.data.stain import KINDS

LIMITS = {
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
    "thumbnails": (0, 1e9),
    "seed": (0, 2**63),
    "labelled": (0, 1e9),
    "val": (0, 0.99),
    "test": (0, 0.99),
    "style": (0, 0.99),
}
"""Least and most value of each option that is a number, of whichever command."""
ADDRESS = re.compile(r"([a-z]+://)?(\[[0-9a-fA-F:]+\]|[^\s/:]+):\d{1,5}")


def add_options(parser: Parser, *, tile: int, mpp: float | None, tissue: bool = False) -> None:
    """Adds the options that all commands understand.

    Args:
      parser: of the command.
      tile: default side of the tiles.
      mpp: default microns per pixel of the tiles; None: those of the images.
      tissue: whether the command cuts slides, on which tissue is searched for.
    """

    add = parser.option
    meant = "not given: no image is scaled" if mpp is None else f"{mpp:g}"
    add("out", None, "folder of the tile set, or gs://... or s3://...", required=True)
    add("mpp", mpp, f"microns per pixel of the tiles ({meant})", type=float)
    add("tile", tile, "side of the tiles in pixels (%(default)s)")
    add("margin", 0, "pixels of real context around each tile (0)")
    add("stride", 0, "pixels from tile to tile in train and style (as --tile: no overlap)")
    if tissue:
        add("min_tissue", 0.5, "least share of tissue in a tile; 0: all tiles (0.5)")
        add("glass", 0.0, "share of tiles without tissue in train and style (0)")
        add("slide_mpp", None, "microns per pixel of slides that do not say", type=float)
    about = "in train, kinds of center pixels: tumour:0.5,tissue:0.4,glass:0.1 (a grid)"
    add("sample", "", about)
    add("per_slide", 0, "tiles that --sample takes of each slide")
    add("max_tiles", 0, "most tiles of a slide, chosen by --seed (0: all)")
    add("seed", 0, "of all random choices (0)")
    add("stain_norm", "", "bring all tiles to one stain (no)", choices=KINDS)
    add("stain_target", None, "image that has that stain (the method's own)", type=Path)
    add("codec", "png", "png, or jpeg50 to jpeg100 (png)")
    add("name", None, "name of the data set (that of OUT)")
    about = "splits by patient, train:P1,P2;test:P3 (the column split of the table)"
    add("splits", "", about)
    add("workers", os.cpu_count() or 1, "processes; 1: none but this (number of cores)")
    add("scheduler", "", "tcp://HOST:PORT of a dask scheduler, in place of --workers")
    add("limit", 0, "only the first so many rows of the table (0: all)")
    about = "draw pictures of at most so many slides, and of those with a warning (%(default)s)"
    add("thumbnails", 200, about)
    add("dry_run", False, "look at everything, write nothing")
    add("overwrite", False, "replace a tile set that stands at OUT, and take nothing over")
    about = "folder to pack in before a remote OUT is written (beside the report)"
    add("spool", None, about, type=Path)


def parse_shares(text: str) -> tuple[tuple[str, float], ...]:
    """Reads "tumour:0.5,tissue:0.4,glass:0.1"; the shares are scaled to add up to 1.

    Raises:
      UserError: no number, not positive, or a kind twice.
    """
    shares: dict[str, float] = {}
    for part in names_list(text):
        kind, _, number = (piece.strip() for piece in part.rpartition(":"))
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not kind or kind in shares or not 0 < share < 1e6:
            raise UserError(
                f"--sample={text}: '{part}' is not KIND:SHARE with a positive number, or names a "
                "kind twice; write tumour:0.5,tissue:0.4,glass:0.1."
            )
        shares[kind] = share
    total = sum(shares.values())
    return tuple((kind, share / total) for kind, share in shares.items())


def rules_from(args: argparse.Namespace, **fixed: Any) -> CutRules:
    """The rules of cutting that the options give.

    Args:
      args: parsed options.
      fixed: fields of CutRules that the command decides, whatever the options say.

    Raises:
      UserError: an option is out of range, or needs another.
    """
    given = vars(args)
    glass = given.get("glass", 0.0)
    wrong = [
        f"--{option}={given[option]} (from {least:g} to {most:g})"
        for option, (least, most) in LIMITS.items()
        if given.get(option) is not None and not least <= given[option] <= most
    ]
    if wrong:
        raise UserError(f"{', '.join(wrong)} is out of range.")
    if args.scheduler and not ADDRESS.fullmatch(args.scheduler):
        # Without a port, a client would wait in vain.
        raise UserError(
            f"--scheduler={args.scheduler} is no address with a port; write it as the scheduler "
            "prints it, such as tcp://host:8786."
        )
    if bool(args.sample) != bool(args.per_slide):
        raise UserError(
            "--sample and --per_slide belong together: say which kinds, and how many tiles of each "
            "slide."
        )
    if args.sample and glass:
        raise UserError(
            "--glass is for grids; with --sample, name the kind: "
            "--sample=tumour:0.5,tissue:0.4,glass:0.1."
        )
    target = args.stain_target
    if target and not args.stain_norm:
        raise UserError(
            "--stain_target has no effect without --stain_norm=macenko or --stain_norm=reinhard."
        )
    if target and not target.is_file():
        raise UserError(f"--stain_target={target} is no file; name an image.")
    found = {field.name: given[field.name] for field in fields(CutRules) if field.name in given}
    found |= {
        "min_tissue": given.get("min_tissue", 0.0),
        "shares": parse_shares(args.sample),
        "complete": given.get("annotation_complete", False),
        "rois": tuple(names_list(given.get("rois") or "")),
        "stain": args.stain_norm,
        "stain_target": str(target.absolute()) if target else "",
    }
    return CutRules(**(found | fixed))
