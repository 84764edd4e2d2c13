"""Stand-ins for the process that compiles; nothing heavy is imported here, because each is a
process of its own."""

import os
import signal
import time

from stedm_jax.common.errors import UserError


def finishes(pipe, request) -> None:
    time.sleep(0.3)
    pipe.send(str(request))


def refuses(pipe, request) -> None:
    pipe.send(UserError("repair this"))


def breaks(pipe, request) -> None:
    pipe.send(RuntimeError(f"compiling {request} failed:\nTraceback: a mistake of the program"))


def is_killed(pipe, request) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(pipe, request) -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def never_ends(pipe, request) -> None:
    """Like the compiler, which does not listen to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(f"pid {os.getpid()}", flush=True)
    time.sleep(600)
