"""Makes annotated tiles of your layouts in your styles, with a trained generator.

    python -m stedm_jax.synthesize --workdir=RUN --layouts=DIR --styles=DIR --out=OUT [--count=100]

--layouts holds masks of class numbers as large as the tiles of the run; --styles holds images, each
a patient of its own, or a folder a patient. Image n has layout n, and the patients take turns, so
that a layout that comes again comes in another style. OUT is a tile set, as data_prep makes; each
tile notes its mask, its style images and the checkpoint. The same command again goes on behind an
interruption.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stedm_jax.common.commands import command_parser, parse_with_keys, run_command
from stedm_jax.common.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever can be known to be wrong, before anything is computed.
    """
    args = _parse(argv)
    if args.out.exists():
        raise UserError(f"{args.out} exists already; give another --out.")

    # These import jax, which --help and a misspelled option need not wait for.
    from stedm_jax.experiment.saved import open_run
    from stedm_jax.synthesize.canvas import for_canvases
    from stedm_jax.synthesize.given_files import Layouts, Styles
    from stedm_jax.synthesize.made_set import Asked, make_set
    from stedm_jax.synthesize.trained_generator import load_generator

    generator = load_generator(open_run(args.workdir), args.generator, _changes(args))
    tile = generator.context.settings.data.tile
    side = args.canvas or tile
    if args.canvas:
        generator, windows = for_canvases(generator)
        windows.check_canvas(side)
    layouts = Layouts.find(args.layouts, generator.classes, args.classes, side, args.fit)
    styles = Styles.find(args.styles, tile)
    count = args.count or len(layouts.files)
    make_set(generator, layouts, styles, Asked(args.out, count, args.seed, args.mix, args.previews))
    print(f"{count} tiles are in {args.out}", flush=True)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("stedm_jax.synthesize", __doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="of the run that trained the generator")
    add("--layouts", type=Path, required=True, help="folder of masks of class numbers")
    add("--styles", type=Path, required=True, help="folder of images, or of a folder a patient")
    add("--out", type=Path, required=True, help="the tile set; a folder that does not exist")
    add("--generator", default="", help="which of the run (the first that is trained)")
    add("--classes", default="", help="class names of the masks by number (as the run has them)")
    add("--fit", choices=("refuse", "crop", "pad"), default="refuse", help="other sizes (refuse)")
    canvas = "side in pixels of images larger than tiles, made in overlapping windows (0: tiles)"
    add("--canvas", type=int, default=0, metavar="SIDE", help=canvas)
    add("--count", type=int, default=0, help="how many tiles (one a layout)")
    add("--seed", type=int, default=0, help="of all that is random (0)")
    add("--guidance", type=float, help="strength of guidance (as the run)")
    add("--steps", type=int, help="steps of the sampler (as the run)")
    mix = "weight of a second patient in the style of each tile, between 0 and 1 (0: none)"
    add("--mix", type=float, default=0.0, help=mix)
    add("--previews", action="store_true", help="write a PNG of each tile to OUT-previews too")
    known, args = parse_with_keys(parser, list(argv))
    if args:
        raise UserError("Keys of --config are those of the run here; give --guidance or --steps.")
    if known.count < 0 or known.seed < 0 or not 0 <= known.mix <= 1:
        raise UserError(
            f"--count={known.count}, --seed={known.seed} and --mix={known.mix:g}: the first two "
            "are at least 0, and the last is between 0 and 1."
        )
    return known


def _changes(args: argparse.Namespace) -> dict[str, float | int]:
    given = {"guidance.scale": args.guidance, "steps": args.steps}
    return {key: value for key, value in given.items() if value is not None}


if __name__ == "__main__":
    run_command(main)
