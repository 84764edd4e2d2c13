"""The one entry: python -m stedm_jax.main --config=configs/demo.py [--workdir=DIR] [--stage=a,b].

Runs the stages of the configuration in order in the workdir. The same command again goes on from
there.
"""

import argparse
import sys
from pathlib import Path

from stedm_jax import __version__
from stedm_jax.common.errors import UserError, explain
from stedm_jax.settings.load import load_config, override, read_settings
from stedm_jax.workdir import STAGES, Workdir


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m stedm_jax.main",
        description=__doc__,
        epilog="Any key of the configuration can be changed: --config.diffusion.train.steps=1000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="a file of configs/, with an arm: configs/glas.py:small"
    )
    parser.add_argument("--workdir", default="", help="default: runs/<config>[-<arm>]")
    parser.add_argument(
        "--stage", default="", help=f"some of {','.join(STAGES)}; or plan, which runs nothing"
    )
    parser.add_argument(
        "--on_change",
        choices=("refuse", "redo", "keep"),
        default="refuse",
        help="what to do with finished stages that a changed configuration makes untrue",
    )
    several = parser.add_argument_group(
        "several processes, where no scheduler tells (launch/README.md)"
    )
    several.add_argument(
        "--coordinator", default="", help="HOST:PORT of process 0; or STEDM_COORDINATOR"
    )
    several.add_argument("--processes", type=int, default=0, help="how many; or STEDM_PROCESSES")
    several.add_argument(
        "--process_id", type=int, default=-1, help="which, from 0; or STEDM_PROCESS_ID"
    )
    parser.add_argument("--version", action="version", version=__version__)
    known, rest = parser.parse_known_args(argv)
    stray = [word for word in rest if not word.startswith("--config.")]
    if stray and any(word.startswith("--config.") and "=" not in word for word in rest):
        parser.error(
            f"unknown arguments: {' '.join(stray)}; keys are changed as --config.KEY=VALUE"
        )
    if stray:
        parser.error(f"unknown arguments: {' '.join(stray)}")
    return known, [word.removeprefix("--config.") for word in rest]


def main(argv: list[str]) -> None:
    """Parses the command line, checks everything that can be checked first, and runs the stages.

    Raises:
      UserError: for anything that the user can mend.
    """
    arguments, overrides = _arguments(argv)
    config, name, arm = load_config(arguments.config)
    override(config, overrides)
    read_settings(config)
    config.stages = tuple(  # until the stages have these names too
        {"generator": "diffusion"}.get(stage, stage)
        for stage in config.stages
        if stage not in ("judge", "quality")
    )
    wanted = [stage for stage in arguments.stage.split(",") if stage] or list(config.stages)
    unknown = [stage for stage in wanted if stage not in (*STAGES, "plan")]
    if unknown:
        raise UserError(f"--stage names {', '.join(unknown)}; valid are plan, {', '.join(STAGES)}.")
    workdir = Workdir(Path(arguments.workdir or f"runs/{name}{'-' + arm if arm else ''}"))

    from stedm_jax.stages import (
        start,
    )  # imports jax, which --help and a misspelled key need not wait for
    from stedm_jax.training import distributed

    if "plan" in wanted:
        if len(wanted) > 1:
            raise UserError(
                "--stage=plan prints what would be run and runs nothing; name it alone."
            )
        start.plan(config, workdir)
        return
    with distributed.joined(arguments.coordinator, arguments.processes, arguments.process_id):
        start.run_stages(config, workdir, wanted, arguments.on_change)


def cli() -> None:
    """Runs main and turns what a user can mend into one paragraph and an exit status; 0 when told
    to stop."""
    try:
        main(sys.argv[1:])
    except BaseException as error:
        told = (
            None if isinstance(error, SystemExit) and type(error) is SystemExit else explain(error)
        )
        if told is None:
            raise
        text, status = told
        if isinstance(error, SystemExit):
            print(text, flush=True)
        else:
            print(f"\nerror: {text}", file=sys.stderr, flush=True)
        sys.exit(status)


if __name__ == "__main__":
    cli()
