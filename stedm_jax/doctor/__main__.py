"""Looks before a run leaps: python -m stedm_jax.doctor [--config=FILE[:ARM]] [--topology=v5e:4x4].

Without --topology: checks this machine, its libraries and devices, the workdir and, with --config,
data and weights. With --topology: compiles the full-size programs of the config for a pod that is
not there, with the TPU compiler, on this machine's CPU, and tells what they ask of each chip. Needs
pip install -e '.[tpu]', and no TPU. A full-size step takes about 25 minutes of a core and up to 15
GB of memory; the same one again only the time to trace it.

Exit status 0: nothing stands in the way (with --topology, 1: it fits, but with little to spare); 2:
  something does.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.doctor.chips import check_compiler, parse_topology, prepare_environment
from stedm_jax.settings.load import load_config, override, read_settings
from stedm_jax.workdir import Workdir

PARTS = ("train", "sampler")
CACHE = "runs/.doctor"


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m stedm_jax.doctor",
        description=__doc__,
        epilog="Any key of the configuration can be changed: --config.mesh.fsdp=4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", default="", help="a file of configs/, with an arm: configs/catch.py:nearby"
    )
    parser.add_argument("--workdir", default="", help="default: runs/<config>[-<arm>]")
    parser.add_argument(
        "--topology", default="", help="one or several: v5e:4x4, v5p:2x2x2,v5p:4x4x4"
    )
    parser.add_argument(
        "--part", default="train", help=f"some of {','.join(PARTS)}; with --topology"
    )
    parser.add_argument(
        "--batch_per_chip", type=int, default=0, help="in place of the global batches of the config"
    )
    parser.add_argument(
        "--json", default="", help="a file to write the accounts or the findings to"
    )
    parser.add_argument(
        "--text", default="", help="a folder to keep the compiled modules in, as text"
    )
    parser.add_argument(
        "--cache", default=CACHE, help=f"what was compiled before; empty: nothing is kept [{CACHE}]"
    )
    known, rest = parser.parse_known_args(argv)
    stray = [word for word in rest if not word.startswith("--config.")]
    if stray:
        parser.error(f"unknown arguments: {' '.join(stray)}")
    if known.topology and not known.config:
        parser.error("--topology needs a --config, which says what to compile")
    if known.batch_per_chip < 0:
        parser.error(f"--batch_per_chip={known.batch_per_chip} is no number of images")
    for name in ("part", "batch_per_chip", "text", "cache"):
        if not known.topology and getattr(known, name) != parser.get_default(name):
            parser.error(f"--{name} goes with --topology, which says for what pod to compile")
    return known, [word.removeprefix("--config.") for word in rest]


def _config(arguments: argparse.Namespace, overrides: list[str]) -> tuple[Any, Workdir]:
    config, name, arm = load_config(arguments.config)
    override(config, overrides)
    read_settings(config)
    return config, Workdir(Path(arguments.workdir or f"runs/{name}{'-' + arm if arm else ''}"))


def main(argv: list[str]) -> int:
    """Examines what the command line names; gives the exit status.

    Raises:
      UserError: for anything that the user can mend.
    """
    arguments, overrides = _arguments(argv)
    if not arguments.topology:
        from stedm_jax.doctor import checks

        config, workdir = _config(arguments, overrides) if arguments.config else (None, None)
        if workdir is None and arguments.workdir:
            workdir = Workdir(Path(arguments.workdir))
        return checks.examine(config, workdir, arguments.json)
    config, workdir = _config(arguments, overrides)
    parts = [part for part in arguments.part.split(",") if part]
    if not parts or set(parts) - set(PARTS):
        raise UserError(f"--part={arguments.part} is unknown; give some of {','.join(PARTS)}.")
    topologies = [each for each in arguments.topology.split(",") if each]
    for each in topologies:
        parse_topology(each)
    check_compiler()
    prepare_environment()  # before jax is imported
    from stedm_jax.doctor import pods

    return pods.examine(
        config,
        workdir,
        topologies,
        parts,
        arguments.batch_per_chip,
        arguments.json,
        arguments.text,
        arguments.cache,
    )


def cli() -> None:
    """Runs main; what a user can mend becomes one paragraph and exit status 2."""
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr, flush=True)
        status = 2
    except KeyboardInterrupt:
        print(
            "\nstopped; what was compiled is kept, and the same command goes on behind it",
            file=sys.stderr,
            flush=True,
        )
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    cli()
