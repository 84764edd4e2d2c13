"""Stand-ins for the process that compiles; nothing heavy is imported here, because each is started
anew."""

import os
import signal
import time

from stedm_jax.common.errors import UserError


def finishes(pipe, request) -> None:
    pipe.send(("phase", f"traced {request.part}"))
    time.sleep(0.3)
    pipe.send(("account", f"{request.part} on {request.topology}"))


def refuses(pipe, request) -> None:
    pipe.send(("error", str(UserError("mend this"))))


def breaks(pipe, request) -> None:
    pipe.send(("broken", "Traceback: a mistake of ours"))


def is_killed(pipe, request) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(pipe, request) -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def never_ends(pipe, request) -> None:
    """As the compiler, which does not listen to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(("phase", f"pid {os.getpid()}"))
    time.sleep(600)
