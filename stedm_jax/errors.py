"""Errors that a user can cause and can mend."""

import errno
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one paragraph: what was found (key, value, file) and what to do next. Entry points
    print it without a traceback and exit with status 2.
    """


PARENT = "STEDM_JAX_PARENT"
"""Environment variable by which a run tells a command of data_prep the process that it must not outlive."""
ORPHANED = 75
"""Exit status of a process that ended because its parent was gone."""


_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)


def explain(error: BaseException) -> tuple[str, int] | None:
    """What to tell a user of an error, in one paragraph, and the exit status; None where only a traceback says it."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError) and error.errno in _PLACE:
        place = f" at {error.filename}" if error.filename else ""
        text = f"{os.strerror(error.errno or 0)}{place}. What was finished is kept; make room or change the"
        return f"{text} workdir, and run the same command again.", 2
    if isinstance(error, KeyboardInterrupt):
        return f"{str(error) or 'Interrupted'}; run the same command again to go on.", 130
    if isinstance(error, SystemExit):
        return str(error), error.code if isinstance(error.code, int) else 0
    return None


def run_command(main: Callable[[list[str]], object]) -> None:
    """Runs a command with the program's arguments; what a user can mend becomes one paragraph and an exit status."""
    try:
        main(sys.argv[1:])
    except BaseException as error:
        told = None if isinstance(error, SystemExit) else explain(error)
        if told is None:
            raise
        print(f"\nerror: {told[0]}", file=sys.stderr, flush=True)
        sys.exit(told[1])
