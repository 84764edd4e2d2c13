"""The one entry: python -m stedm_jax.main --config=configs/demo.py [--workdir=DIR] [--stage=a,b].

Runs the stages of the configuration in order in the workdir. The same command again goes on from there.
"""

import argparse
import errno
import importlib
import os
import sys
from pathlib import Path

from stedm_jax import __version__
from stedm_jax.config import check_config, load_config, override
from stedm_jax.errors import UserError
from stedm_jax.workdir import STAGES, Workdir


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m stedm_jax.main",
        description=__doc__,
        epilog="Any key of the configuration can be changed: --config.diffusion.train.steps=1000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="a file of configs/, with an arm: configs/glas.py:small")
    parser.add_argument("--workdir", default="", help="default: runs/<config>[-<arm>]")
    parser.add_argument("--stage", default="", help=f"some of {','.join(STAGES)}; or plan, which runs nothing")
    parser.add_argument(
        "--on_change", choices=("refuse", "redo", "keep"), default="refuse",
        help="what to do with finished stages that a changed configuration makes untrue",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=__version__)
    known, rest = parser.parse_known_args(argv)
    stray = [word for word in rest if not word.startswith("--config.")]
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
    base = importlib.import_module("configs.base").get_base()
    check_config(config, base)
    wanted = [stage for stage in arguments.stage.split(",") if stage] or list(config.stages)
    unknown = [stage for stage in wanted if stage not in (*STAGES, "plan")]
    if unknown:
        raise UserError(f"--stage names {', '.join(unknown)}; valid are plan, {', '.join(STAGES)}.")
    workdir = Workdir(Path(arguments.workdir or f"runs/{name}{'-' + arm if arm else ''}"))

    from stedm_jax.stages import start  # imports jax, which --help and a misspelled key need not wait for

    if "plan" in wanted:
        start.plan(config, workdir)
        return
    with workdir.locked():
        start.run_stages(config, workdir, wanted, arguments.on_change)


def cli() -> None:
    """Runs main and turns what a user can mend into one paragraph and exit status 2."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(_report(str(error), 2))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        place = f" at {error.filename}" if error.filename else ""
        text = f"{os.strerror(error.errno or 0)}{place}. What was finished is kept; make room or change the"
        sys.exit(_report(f"{text} workdir, and run the same command again.", 2))
    except KeyboardInterrupt:
        sys.exit(_report("Interrupted; run the same command again to go on.", 130))


def _report(text: str, status: int) -> int:
    print(f"\nerror: {text}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    cli()
