"""A trained run as one folder, which needs neither the workdir nor the tiles.

    python -m stedm_jax.export RUN --out=DIR
    python -m stedm_jax.export RUN --out=DIR --hub --license=cc-by-4.0

RUN is a workdir. DIR gets all weights as safetensors, settings, classes, stain, checksums and a
card; `load_run` of Python and the --workdir of stedm_jax.inference take it. With --hub the card
begins with the metadata that a model hub reads, and no patient is named; nothing is uploaded.
"""

from pathlib import Path

from stedm_jax.common.commands import command_parser, run_command


def main(argv: list[str]) -> None:
    """The command.

    Raises:
      UserError: there is nothing to export, or DIR is taken.
    """
    parser = command_parser("stedm_jax.export", __doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="the workdir of a run, or an exported one")
    add("--out", metavar="DIR", type=Path, required=True, help="where to write")
    parts = (
        "cells to export, with what they need, as segmentation/labelled,generator/stedm; without "
        "this option all that were trained"
    )
    add("--parts", default="", help=parts)
    add("--hub", action="store_true", help="in the layout of a model hub")
    add("--license", "--licence", default="", help="of the weights, for the card, as cc-by-4.0")
    add("--force", action="store_true", help="replace what this command wrote there before")
    arguments = parser.parse_args(argv)

    # This brings JAX.
    from stedm_jax.export.whole_run import export_run

    parts = [part for part in arguments.parts.split(",") if part]
    about = export_run(
        arguments.run,
        arguments.out,
        parts=parts,
        hub=arguments.hub,
        license=arguments.license,
        force=arguments.force,
    )
    for name, why in about.left_out.items():
        print(f"left out: {name}: {why}")
    print(f"{arguments.out}: {', '.join(about.entries)}, {about.parameters:,} numbers")


if __name__ == "__main__":
    run_command(main)
