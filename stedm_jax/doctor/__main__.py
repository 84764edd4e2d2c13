"""Checks what would stop a run before it starts.

    python -m stedm_jax.doctor [--config=FILE[:ARM]] [--topology=v5e:4x4]

Without --topology: checks this machine, its libraries and devices, the workdir and, with --config,
data and weights. With --topology: compiles the full-size programs of the config for a pod that is
not there, with the TPU compiler, on this machine's CPU, and says what they ask of each chip. Needs
pip install -e '.[tpu]', and no TPU. A full-size step takes about 25 minutes of a core and up to 15
GB of memory; the same one again only the time to trace it.

Exit status 0: nothing stands in the way (with --topology, 1: it fits, but with little to spare); 2:
something does.
"""

import argparse
from pathlib import Path

from stedm_jax.common.commands import command_parser, parse_with_keys, run_command
from stedm_jax.common.errors import UserError
from stedm_jax.doctor.chips import check_compiler, parse_topology, prepare_environment
from stedm_jax.settings.load import load_config, override, read_settings
from stedm_jax.settings.root import Settings

PARTS = ("train", "sampler")
CACHE = "runs/.doctor"


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = command_parser(
        "stedm_jax.doctor",
        __doc__,
        "Any key of the configuration can be changed: --config.mesh.fsdp=4",
    )
    add = parser.add_argument
    add("--config", default="", help="a file of configs/, with an arm: configs/catch.py:nearby")
    add("--workdir", default="", help="default: runs/<config>[-<arm>]")
    add("--json", default="", help="a file to write the accounts or the findings to")
    add("--topology", default="", help="one or several: v5e:4x4, v5p:2x2x2,v5p:4x4x4")
    pods = parser.add_argument_group("with --topology")
    add = pods.add_argument
    add(
        "--part",
        default="train",
        help="train, sampler, or both; of one: train/GENERATOR, sampler/SET",
    )
    add("--batch_per_chip", type=int, default=0, help="in place of the config's global batches")
    add("--cache", default=CACHE, help=f"what was compiled before; empty: not kept [{CACHE}]")
    known, overrides = parse_with_keys(parser, argv)
    if known.topology and not known.config:
        parser.error("--topology needs a --config, which says what to compile")
    if known.batch_per_chip < 0:
        parser.error(f"--batch_per_chip={known.batch_per_chip} is not a number of images")
    for name in ("part", "batch_per_chip", "cache"):
        if not known.topology and getattr(known, name) != parser.get_default(name):
            parser.error(f"--{name} goes with --topology, which says for what pod to compile")
    return known, overrides


def main(argv: list[str]) -> int:
    """Examines what the command line names; gives the exit status.

    Raises:
      UserError: for anything that the user can repair.
    """
    arguments, overrides = _arguments(argv)
    settings, place = None, arguments.workdir
    if arguments.config:
        config, name, arm = load_config(arguments.config)
        override(config, overrides)
        settings = read_settings(config)
        place = place or f"runs/{name}{'-' + arm if arm else ''}"
    if settings and arguments.topology:
        return _pods(settings, place, arguments)
    from stedm_jax.doctor.examination import examine  # brings jax

    return examine(settings, Path(place or "runs"), arguments.json)


def _pods(settings: Settings, place: str, arguments: argparse.Namespace) -> int:
    parts = [part for part in arguments.part.split(",") if part]
    if not parts or {part.partition("/")[0] for part in parts} - set(PARTS):
        raise UserError(f"--part={arguments.part} is unknown; give some of {','.join(PARTS)}.")
    topologies = [each for each in arguments.topology.split(",") if each]
    for each in topologies:
        parse_topology(each)
    check_compiler()
    prepare_environment()  # before jax is imported
    from stedm_jax.doctor import pods
    from stedm_jax.doctor.account import Request

    requests = [
        Request(
            settings,
            place,
            topology,
            part,
            pods.global_batch(settings, topology, part, arguments.batch_per_chip),
            arguments.cache,
        )
        for topology in topologies
        for part in parts
    ]
    return pods.examine(requests, arguments.json)


def cli() -> None:
    """Runs main; what a user can repair becomes one paragraph and exit status 2."""
    run_command(main)


if __name__ == "__main__":
    cli()
