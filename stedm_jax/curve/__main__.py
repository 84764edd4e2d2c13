"""Quality of a trained generator against evaluations of its network, for every sampler.

    python -m stedm_jax.curve --workdir=RUN --out=DIR [--set=NAME] [--images=64]
        [--evaluations 6 12 24 48] [--samplers ddim unipc_3] [--features=SOURCE]

DIR gets curve.csv, curve.txt and curve.png: layout IoU of the run's judge, style error, kernel
distance (KID) to held-out patients, and seconds. docs/experiments.md says how to read them.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from stedm_jax.common.commands import command_parser, run_command
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_bytes, write_text
from stedm_jax.diffusion.samplers import SAMPLERS
from stedm_jax.settings.arm_networks import JUDGE


def main(argv: list[str]) -> None:
    """Measures the curve and writes it, row by row.

    Raises:
      UserError: for anything that the user can repair.
    """
    arguments = _parse(argv)
    from stedm_jax.curve.curve_chart import curve_chart, curve_text
    from stedm_jax.curve.sampling_curve import chosen_set, curve
    from stedm_jax.evaluation.csv_text import to_csv
    from stedm_jax.evaluation.figures import png
    from stedm_jax.experiment.saved import open_run

    context, name = chosen_set(open_run(arguments.workdir), arguments.set)
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    given = arguments.samplers, arguments.evaluations, arguments.images, arguments.features
    rows = []
    for row in curve(context, name, *given):
        rows.append(row)
        write_text(out / "curve.csv", to_csv([asdict(each) for each in rows]))
        write_text(out / "curve.txt", curve_text(rows) + "\n")
        write_bytes(out / "curve.png", png(lambda: curve_chart(rows)))
        print(f"{len(rows)}: {row.sampler}, {row.evaluations} evaluations", flush=True)
    print(curve_text(rows), flush=True)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("stedm_jax.curve", *(__doc__ or "").split("\n\n", 1))
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="of a run with a generator and a judge")
    add("--out", type=Path, required=True, help="folder of the table and the figure")
    add("--set", default="", help="synthesis set whose generator to use, or SET@POINT (the first)")
    add("--images", type=int, default=64, help="of each row (64)")
    add("--evaluations", type=int, nargs="+", default=[6, 12, 24, 48], metavar="N")
    add("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS), metavar="NAME")
    add("--features", default=JUDGE, metavar="SOURCE", help="encoder, as report.features (judge)")
    arguments = parser.parse_args(argv)
    if arguments.images < 2:
        raise UserError(f"--images is {arguments.images}; a row needs at least 2.")
    if min(arguments.evaluations) < 1:
        raise UserError(f"--evaluations is {min(arguments.evaluations)}; each is at least 1.")
    return arguments


if __name__ == "__main__":
    run_command(main)
