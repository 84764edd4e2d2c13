"""The options of the command."""

import argparse
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from stedm_jax.common.commands import command_parser
from stedm_jax.common.errors import UserError

PART = "official_split"
"""Tag by which the scores of a test are divided."""


def parse_args(about: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; `about` is the help, its first paragraph above them.

    Raises:
      UserError: a value that cannot be.
    """
    parser = command_parser("stedm_jax.inference", *about.split("\n\n", 1))
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="of the run that trained the segmenter")
    add("--images", type=Path, required=True, help="a folder, a file, or whole images with truth")
    add("--out", type=Path, required=True, help="folder of the results, made if need be")
    add("--arm", default="labelled", help="which segmenter of the run (labelled)")
    add("--seed", type=int, help="which of its trainings (the first)")
    add("--mpp", type=float, help="microns per pixel of images that do not say, as all but slides")
    region = "X,Y,WIDTH,HEIGHT in level-0 pixels of the whole file: only that of each slide"
    add("--region", default="", help=region)
    add("--batch", type=int, default=16, help="patches at once (16)")
    add("--overlap", type=float, default=0.25, help="of patches, as a share of their side (0.25)")
    margin = "outermost part of a patch that does not count (0.0625)"
    add("--margin", type=float, default=0.0625, help=margin)
    add("--everywhere", action="store_true", help="segment the glass of slides too")
    _add_outputs(parser)
    _add_objects(parser)
    _add_scores(parser)
    args = parser.parse_args(argv)
    _check(args)
    args.write = _kinds(args)
    args.region = _region(args.region)
    return args


def _add_objects(parser: argparse.ArgumentParser) -> None:
    from stedm_jax.inference.outlines import KINDS

    add = parser.add_argument
    least = "square microns of the smallest object that is kept (0: all are)"
    add("--least", type=float, default=0.0, help=least)
    hole = "square microns of the largest hole that is filled (0: none is)"
    add("--hole", type=float, default=0.0, help=hole)
    simplify = "microns by which outlines may leave the edges of pixels (one pixel; 0: exact)"
    add("--simplify", type=float, help=simplify)
    kind = "what QuPath makes of outlines (annotation); detection for thousands of objects"
    add("--qupath", choices=KINDS, default=KINDS[0], help=kind)
    add("--objects", action="store_true", help="write the numbers of objects too")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    from stedm_jax.inference.combine import VIEWS
    from stedm_jax.inference.outputs import KINDS, OF_ALL, USUAL

    add = parser.add_argument
    write = f"what to write, of {', '.join([*KINDS, *OF_ALL])}, or all but zarr: all"
    add("--write", default=",".join(USUAL), help=f"{write} ({','.join(USUAL)})")
    views = "test-time augmentation: mean over these views of each patch (none)"
    add("--tta", choices=VIEWS, default="none", help=views)
    ensemble = "mean over all seeds of the arm that were trained"
    add("--ensemble", action="store_true", help=ensemble)


def _kinds(args: argparse.Namespace) -> tuple[str, ...]:
    """What is written.

    Raises:
      UserError: an unknown kind, or one that lacks its package.
    """
    from stedm_jax.inference.outputs import KINDS, OF_ALL

    known, asked = (*KINDS, *OF_ALL), args.write.split(",")
    if args.write == "all":
        asked = [kind for kind in known if kind != "zarr"]
    if wrong := [kind for kind in asked if kind not in known]:
        raise UserError(f"--write={args.write} names {wrong[0]}; choose of {', '.join(known)}.")
    if "zarr" in asked and find_spec("ome_zarr") is None:
        raise UserError("--write=zarr needs ome-zarr; install it: pip install 'stedm_jax[zarr]'.")
    if args.objects:
        asked.append("objects")
    if "page" in asked:
        asked.append("overlay")
    return tuple(kind for kind in known if kind in asked)


def _add_scores(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--truth", type=Path, help="folder with masks of class ids, NAME.png for each image")
    table = "CSV with image, patient: whose images those with --truth are (one patient an image)"
    add("--table", type=Path, help=table)
    add("--splits", default="test", help="of whole images with truth (test)")
    seen = "score patients too whose tiles the run has learned from"
    add("--allow_seen", action="store_true", help=seen)
    part = f"tag, or column of the table, by which scores are divided ({PART})"
    add("--part", default=PART, help=part)


def _check(args: argparse.Namespace) -> None:
    from stedm_jax.imaging.microns import LEAST_MPP, MOST_MPP, believable

    if args.mpp is not None and not believable(args.mpp):
        raise UserError(
            f"--mpp={args.mpp:g} is no microscope's; give microns per pixel from {LEAST_MPP} to "
            f"{MOST_MPP:g}, such as 0.5."
        )
    for name in ("least", "hole", "simplify"):
        value = getattr(args, name)
        if value is not None and not (0 <= value < math.inf):
            kind = "a length in microns" if name == "simplify" else "an area in square microns"
            raise UserError(f"--{name}={value:g} is {kind}; give 0 or more.")
    if args.ensemble and args.seed is not None:
        raise UserError(f"--ensemble takes all seeds, --seed={args.seed} one; leave one out.")
    if args.table and not args.truth:
        raise UserError("--table says whose images are scored; give --truth too.")


def _region(text: str) -> tuple[int, int, int, int] | None:
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        numbers = ()
    if numbers is not None and len(numbers) != 4:
        raise UserError(f"--region={text} is not X,Y,WIDTH,HEIGHT in level-0 pixels.")
    return numbers
