"""What processes that train together exchange outside of compiled programs, through JAX's
coordinator.

Everything here works for a process alone too, and then does nothing but what is asked for.
"""

import ctypes
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import jax

# The coordinator's client has no public name; orbax uses it as well.
from jax._src import distributed

from stedm_jax.common.errors import UserError, explain

T = TypeVar("T")
LOST = 3
"""Exit status where another process was lost; the same command goes on from the last checkpoint."""
LOST_TEXT = (
    "Another process of this run was lost (killed, out of memory, or its host is gone). What was "
    "saved is kept; run the same command again on every host to go on."
)
_END = "stedm/end"
_PATIENCE = 12.0  # seconds in which a process that ends by an error says so to the others
_WAIT_MS = 3_600_000
_calls = itertools.count()
_ending = threading.Event()


class Relayed(UserError):
    """A mistake that process 0 found and reports."""


def several() -> bool:
    """Whether there are other processes."""
    return (
        distributed.global_state.client is not None and distributed.global_state.num_processes > 1
    )


def first() -> bool:
    """Whether this is the process that writes: number 0, or the only one."""
    return not several() or distributed.global_state.process_id == 0


def mine(number: int) -> bool:
    """Whether a numbered piece of work is this process's; they take turns."""
    state = distributed.global_state
    return not several() or number % state.num_processes == state.process_id


def wait_for_all() -> None:
    """Waits until all processes are here."""
    if several():
        client = distributed.global_state.client
        assert client is not None
        client.wait_at_barrier(f"stedm/wait/{next(_calls)}", _WAIT_MS)


def on_first(function: Callable[[], T]) -> T:
    """Runs a function on process 0 only; all processes call this, wait for its end, and get what it
    returned.

    Args:
      function: returns what JSON can hold, and calls nothing that all processes have to take part
        in.

    Raises:
      UserError: it raised one.
    """
    if not several():
        return function()
    client, key = distributed.global_state.client, f"stedm/first/{next(_calls)}"
    assert client is not None
    if first():
        try:
            result = function()
        except UserError as error:
            client.key_value_set(key, json.dumps({"error": str(error)}))
            raise
        client.key_value_set(key, json.dumps({"result": result}))
        return result
    while True:
        try:
            answer = json.loads(client.blocking_key_value_get(key, 10_000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            continue
        if "error" in answer:
            raise Relayed(answer["error"])
        return answer["result"]


def end_all(error: BaseException) -> None:
    """Ends this process for an error and gives the others the reason; returns only if all end
    together by themselves."""
    if getattr(error, "agreed", False):
        return
    _ending.set()
    text, status = explain(error) or (f"{type(error).__name__}: {error}"[:500], 1)
    lost = isinstance(error, jax.errors.JaxRuntimeError)
    if lost and (answer := _answer(_PATIENCE)):
        _leave(*answer)
    if status == 1:
        traceback.print_exception(error)
    if lost:
        # JAX notices by itself that a process is gone, and would end this one, see `watch`.
        text, status = f"{LOST_TEXT} ({text.splitlines()[0][:200]})", LOST
    if isinstance(error, Relayed):  # process 0 says it
        _exit(status)
    number = distributed.global_state.process_id
    _report({"text": f"Process {number} ended: {text}", "status": status or 0})
    _leave(text, status)


def watch() -> None:
    """From now on, ends this process soon after another one ended by an error or was lost."""
    threading.Thread(target=_watch, name="peers", daemon=True).start()
    _explain_abort()


def _watch() -> None:
    while not _ending.wait(1.0):
        answer = _answer()
        if answer and not _ending.is_set():
            _ending.set()
            _leave(*answer)


def _report(what: dict[str, Any]) -> None:
    client = distributed.global_state.client
    # Another process may be quicker, or the coordinator gone.
    with suppress(jax.errors.JaxRuntimeError):
        if client is not None:
            client.key_value_set(_END, json.dumps(what))


def _answer(patience: float = 0.0) -> tuple[str, int] | None:
    """What a process that ended said, if one did; waits for it."""
    until = time.monotonic() + patience
    while (client := distributed.global_state.client) is not None:
        with suppress(jax.errors.JaxRuntimeError):
            answer = json.loads(client.key_value_try_get(_END))
            return answer["text"], answer["status"]
        if time.monotonic() >= until:
            break
        time.sleep(0.5)
    return None


def _leave(text: str, status: int) -> None:
    _say(text, status)
    _exit(status)


def _say(text: str, status: int) -> None:
    sys.stdout.flush()
    print(f"\n{'error: ' if status else ''}{text}", file=sys.stderr, flush=True)


def _exit(status: int) -> None:
    """Without the exit handlers, which would wait for processes that do not come; the coordinator
    goes last."""
    sys.stdout.flush()
    time.sleep(5.0 if first() else 2.0)  # so that the others can ask why
    os._exit(status)


def _explain_abort() -> None:
    """JAX aborts a process whose peers are lost, from a thread of its own: adds a line to what it
    says, and a status.

    Python's own handlers would run in the main thread only, which never gets to them.
    """
    message = f"\nerror: {LOST_TEXT}\n".encode()

    def handler(_: int) -> None:
        os.write(2, message)
        os._exit(LOST)

    global _handler  # kept, or it would be collected while the C library still has it
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal.restype = ctypes.c_void_p
    library.signal(int(signal.SIGABRT), ctypes.cast(_handler, ctypes.c_void_p))


_handler: Any = None
