"""What commands share: changes of keys among the arguments, and one wrapper, by which what a user
can repair is one paragraph and an exit status, not a traceback."""

import argparse
import sys
from collections.abc import Callable

from stedm_jax.common.errors import explain


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


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command with the program's arguments and exits with its status (None: 0).

    A UserError, a full disk and an interruption become one paragraph on stderr (status 2, 2 and
    130). A SystemExit of a subclass that carries a text (a run that was asked to stop) prints it
    and exits with its code.
    """
    try:
        status = main(sys.argv[1:]) or 0
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
