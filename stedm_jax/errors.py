"""Errors that a user can cause and can mend."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one paragraph: what was found (key, value, file) and what to do next. Entry points
    print it without a traceback and exit with status 2.
    """


PARENT = "STEDM_JAX_PARENT"
"""Environment variable by which a run tells a command of data_prep the process that it must not outlive."""
ORPHANED = 75
"""Exit status of a process that ended because its parent was gone."""
