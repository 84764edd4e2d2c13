"""Compiles one program for a pod that is not there, in a process of its own.

So Ctrl-C ends it at once (the compiler itself does not listen), the memory that the compiler took
is given back, and a compiler that is killed for lack of memory, or that crashes, is an answer and
not the end of the doctor.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.text import duration
from stedm_jax.doctor.account import Request

PULSE = 20.0
"""Seconds between signs of life."""
MEMORY = 15e9
"""Bytes that the compiler takes for a full-size step, at most, as seen."""


def work(pipe: Any, request: Request) -> None:
    """The process: sends the account, or the exception that there was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the doctor to end this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        # Where memory runs out, this is what is killed, and no training beside it.
        Path("/proc/self/oom_score_adj").write_text("800")
    try:
        from stedm_jax.doctor.programs import compiled_account  # brings jax

        pipe.send(compiled_account(request))
    except UserError as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"compiling {request} failed:\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def compile_apart(
    request: Request, target: Callable[[Any, Request], None] = work, every: float = PULSE
) -> Any:
    """The account of a program, from a process of its own; says that it goes on meanwhile.

    Raises:
      UserError: what the process found that the user can repair, or that it was killed.
      KeyboardInterrupt: at once; the process is ended.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(there, request), daemon=True)
    began = time.monotonic()
    child.start()
    there.close()
    try:
        while not here.poll(every):
            print(f"  {duration(time.monotonic() - began)} so far", flush=True)
        answer = here.recv()
    except EOFError:
        child.join()
        raise UserError(_death(request, child.exitcode or 0)) from None
    finally:
        child.kill()
        child.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _death(request: Request, status: int) -> str:
    if status == -signal.SIGKILL:
        return (
            f"The compiler of {request} was killed, most likely because this machine ran out of "
            f"memory: a full-size step takes up to {MEMORY / 1e9:.0f} GB. End other programs, or "
            "run this on a machine with more. What was compiled before is kept: the same command "
            "goes on after it."
        )
    return (
        f"The compiler of {request} crashed (status {status}); what it wrote is above. Try once "
        "more; if it happens again, check whether jax and libtpu go together: pip install -e "
        "'.[tpu]'"
    )
