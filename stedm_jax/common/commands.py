"""What commands share: changes of keys among the arguments, and one wrapper, by which what a user
can repair is one paragraph and an exit status, not a traceback."""

import argparse
import io
import os
import sys
from collections.abc import Callable

from stedm_jax.common.errors import explain
from stedm_jax.common.files import expand_home

NUMBERS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
}
"""Options of JAX by which the same seed gives other random numbers, with the values that hold
here."""


def command_parser(
    module: str, about: str | None, epilog: str | None = None
) -> argparse.ArgumentParser:
    """A parser of the arguments of `python -m MODULE`, which shows texts as they are written and
    takes no option by its first letters.

    Args:
      module: its name, and what else stands before the arguments.
      about: what is shown before the options. epilog: what is shown after them.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parse_with_keys(
    parser: argparse.ArgumentParser, argv: list[str]
) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of a command that takes a configuration, and the changes of its keys: KEY=VALUE
    of every --config.KEY=VALUE. Any other word that is not known ends the command."""
    known, rest = parser.parse_known_args(argv)
    stray = [word for word in rest if not word.startswith("--config.")]
    if stray:
        hint = "; keys are changed as --config.KEY=VALUE" if len(rest) > len(stray) else ""
        parser.error(f"unknown arguments: {' '.join(stray)}{hint}")
    return known, [word.removeprefix("--config.") for word in rest]


def fix_numbers() -> None:
    """Takes NUMBERS out of the environment, with a line on stderr, and out of a JAX that read it:
    results follow from the settings alone."""
    for name, value in NUMBERS.items():
        given = os.environ.pop(name.upper(), None)
        if given is not None:
            text = f"{name.upper()}={given} is ignored: it would change the numbers of a seed"
            print(text, file=sys.stderr, flush=True)
        if jax := sys.modules.get("jax"):
            jax.config.update(name, value)


def _print_anything() -> None:
    """Lets consoles of any encoding show names of files: what one cannot show is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command with the program's arguments and exits with its status (None: 0); the
    environment changes no random numbers (`fix_numbers`).

    A UserError, a full disk and an interruption become one paragraph on stderr (status 2, 2 and
    130). A SystemExit of a subclass that carries a text (a run that was asked to stop) prints it
    and exits with its code. "~" begins a path in the home folder (`expand_home`).
    """
    _print_anything()
    fix_numbers()
    try:
        status = main([expand_home(word) for word in sys.argv[1:]]) or 0
    except BaseException as error:
        plain_exit = type(error) is SystemExit
        explained = None if plain_exit else explain(error)
        if explained is None:
            raise
        text, status = explained
        if isinstance(error, SystemExit):
            print(text, flush=True)
        else:
            print(f"\nerror: {text}", file=sys.stderr, flush=True)
    sys.exit(status)
