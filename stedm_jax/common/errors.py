"""Errors that a user can cause and can repair."""

import errno
import os


class UserError(Exception):
    """A mistake that the user can repair.

    The message is one paragraph: what was found (key, value, file) and what to do next. Commands
    print it without a traceback and exit with status 2.
    """


PARENT = "STEDM_JAX_PARENT"
"""Environment variable: process id of the run that started a command of data_prep, which must not
outlive it."""
ORPHANED = 75
"""Exit status of a process that ended because its parent was gone."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Numbers of an OSError after which nothing more can be written to a disk."""

_PLACE = (*NO_ROOM, errno.EACCES, errno.EFBIG)


def explain(error: BaseException) -> tuple[str, int] | None:
    """What to say of an error in one paragraph, and the exit status; None where only a traceback
    helps."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError) and error.errno in _PLACE:
        place = f" at {error.filename}" if error.filename else ""
        text = (
            f"{os.strerror(error.errno or 0)}{place}. What was finished is kept; make room or "
            "choose another folder, and run the same command again."
        )
        return text, 2
    if isinstance(error, KeyboardInterrupt):
        return f"{str(error) or 'Interrupted'}; run the same command again to go on.", 130
    if isinstance(error, SystemExit):
        return str(error), error.code if isinstance(error.code, int) else 0
    return None
