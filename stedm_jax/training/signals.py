"""Stopping politely: SIGTERM and Ctrl-C finish the step, save, then end; a second one ends at once."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """Training was told to stop, saved its step and may be run again. Exit code 0."""

    def __init__(self, message: str) -> None:
        super().__init__(0)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Signals:
    """Context in which the first SIGTERM or Ctrl-C is only noted; it does nothing outside the main thread."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            # After a distributed start JAX itself waits for SIGTERM, to let all hosts agree on the step.
            mine = SIGNALS if jax.process_count() == 1 else ()
            self._before = {number: signal.signal(number, self._note) for number in mine}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        for each in self._before:  # the next one ends at once
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        os.write(2, f"\n{signal.Signals(number).name}: saving after this step; once more to end at once\n".encode())

    def wanted(self) -> bool:
        """Whether this process was told to stop."""
        return self.received is not None

    def stop_at(self, step: int) -> bool:
        """Whether to stop after `step`; with several processes, all get the same answer."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.received = signal.SIGTERM
            return True
        return jax.process_count() == 1 and self.wanted()

    def end(self, step: int, workdir: object) -> None:
        """Leaves: KeyboardInterrupt after Ctrl-C, else Stopped."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt(f"stopped at step {step}")
        raise Stopped(f"Stopped at step {step}, which is saved in {workdir}; run the same command to go on.")
