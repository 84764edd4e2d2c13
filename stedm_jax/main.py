"""The one entry: python -m stedm_jax.main --config=configs/demo.py [--workdir=DIR] [--stage=a,b];
python -m stedm_jax, or stedm_jax where it is installed, is the same.

Makes the cells of the experiment in order in the workdir. The same command again goes on from
there.
"""

import argparse
from functools import partial
from pathlib import Path

from stedm_jax.common.commands import command_parser, parse_with_keys, run_command
from stedm_jax.common.errors import UserError
from stedm_jax.common.version import __version__
from stedm_jax.settings.load import load_config, override, read_settings
from stedm_jax.settings.root import STAGES


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = command_parser(
        "stedm_jax.main",
        __doc__,
        "Any key of the configuration can be changed: --config.diffusion.train.steps=1000",
    )
    add = parser.add_argument
    add("--config", required=True, help="a file of configs/, with an arm: configs/glas.py:small")
    add("--workdir", default="", help="default: runs/<config>[-<arm>]")
    add(
        "--stage",
        default="",
        help=(
            f"stages ({','.join(STAGES)}) or single cells (synthesis/NAME, segmentation/ARM/SEED); "
            "or plan, which prints all cells with their state and cost and runs nothing; or "
            "preview, which reports on the cells that are done, in WORKDIR/preview"
        ),
    )
    add(
        "--cells",
        default="",
        help=(
            "NUMBER/COUNT, as 2/8: makes this share of the cells, and what these need; run it once "
            "for each number, at the same time, on one workdir"
        ),
    )
    add(
        "--on_change",
        choices=("refuse", "redo", "keep"),
        default="refuse",
        help="what to do with finished cells that a changed configuration invalidates",
    )
    add(
        "--measure",
        action="store_true",
        help="with --stage=plan: train for some seconds, and give the hours of this machine",
    )
    add("--verbose", action="store_true", help="print all settings that differ from the defaults")
    several = parser.add_argument_group(
        "several processes, where no scheduler announces them (launch/README.md)"
    )
    add = several.add_argument
    add("--coordinator", default="", help="HOST:PORT of process 0; or STEDM_COORDINATOR")
    add("--processes", type=int, default=0, help="how many; or STEDM_PROCESSES")
    add("--process_id", type=int, default=-1, help="which, from 0; or STEDM_PROCESS_ID")
    parser.add_argument("--version", action="version", version=__version__)
    return parse_with_keys(parser, argv)


def main(argv: list[str]) -> None:
    """Parses the command line, checks everything that can be checked first, and makes the cells.

    Raises:
      UserError: for anything that the user can repair.
    """
    arguments, overrides = _arguments(argv)
    config, name, arm = load_config(arguments.config)
    override(config, overrides)
    settings = read_settings(config)
    wanted = [word for word in arguments.stage.split(",") if word]
    default = f"runs/{name}{'-' + arm if arm else ''}"
    path = Path(arguments.workdir or default)

    # These import jax, which --help and a misspelled key need not wait for.
    from stedm_jax.experiment import plan, runner
    from stedm_jax.experiment.workdir import Workdir
    from stedm_jax.training import distributed

    workdir = Workdir(path)
    alone = {
        "plan": partial(plan.print_plan, measure=arguments.measure),
        "preview": runner.preview,
    }
    if arguments.measure and wanted != ["plan"]:
        raise UserError("--measure measures for a plan; give it with --stage=plan.")
    if named := alone.keys() & {*wanted}:
        if len(wanted) > 1:
            raise UserError(f"--stage={named.pop()} makes no cells; name it alone.")
        alone[named.pop()](settings, workdir)
        return
    share = runner.Share.parse(arguments.cells)
    with distributed.joined(arguments.coordinator, arguments.processes, arguments.process_id):
        verbose = arguments.verbose
        runner.run_cells(settings, workdir, wanted, arguments.on_change, share, verbose)


def cli() -> None:
    """The installed command."""
    run_command(main)


if __name__ == "__main__":
    cli()
