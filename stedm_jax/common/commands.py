"""The one wrapper of every command: what a user can repair is one paragraph and an exit status, not
a traceback."""

import sys
from collections.abc import Callable

from stedm_jax.common.errors import explain


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
