"""Stopping politely: SIGTERM, Ctrl-C, SIGHUP, SIGUSR1 or a file STOP end a run where nothing is
lost; SIGTERM or Ctrl-C once more ends it at once.

Within `politely()` a signal is only noted, and the work done there asks `due()` now and then;
elsewhere it ends the run where it is. That is safe because every file is written completely or not
at all. Several processes leave together, at the same call of `due`, whichever of them got the
signal, and when.
"""

import functools
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from stedm_jax.training import peers
from stedm_jax.training.sharding import replicated, to_global

ASKED = (signal.SIGTERM, signal.SIGINT)
WARNED = (signal.SIGHUP, signal.SIGUSR1)
"""What schedulers and terminals send some time before SIGTERM, which then must not end at once."""
SIGNALS = (*ASKED, *WARNED)
STOP = "STOP"
"""File in the workdir that asks a run to end; it is removed when it was heard."""
REQUEUE = "STEDM_REQUEUE"
"""Environment variable: exit status after SIGTERM (default 0), for schedulers that start a run
again by its status."""
_FILE = 64  # its number among those of signals


class Stopped(SystemExit):
    """A run was asked to stop, saved what it had, and can be run again. `agreed`: all processes end
    in this way."""

    def __init__(self, message: str, status: int = 0, agreed: bool = False) -> None:
        super().__init__(status)
        self.message, self.agreed = message, agreed

    def __str__(self) -> str:
        return self.message


class Interrupted(KeyboardInterrupt):
    """As Stopped, after Ctrl-C."""

    def __init__(self, message: str, agreed: bool = False) -> None:
        super().__init__(message)
        self.agreed = agreed


class Signals:
    """Context in which a run can be asked to stop; signals are heard in the main thread's process
    only.

    Args:
      workdir: where the file STOP is looked for; None: nowhere.
      shared: other runs look for it too. It then stays, and counts if it is newer than this run.
    """

    def __init__(self, workdir: Path | None = None, shared: bool = False) -> None:
        self._shared, self._began = shared, time.time()
        self.received = 0
        self._file = workdir / STOP if workdir else None
        self._looked, self._there = -1.0, False
        self._polite = 0
        self._before: dict[int, Any] = {}
        self._votes: list[jax.Array] = []
        self._agreed = 0

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            # A handler runs between two lines of Python, which may be minutes apart; a thread hears
            # at once. It begins before the handlers are set, so that it counts every signal that
            # they take.
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._listen, name="signals", daemon=True).start()
            # nohup ignores SIGHUP for good. A shell that starts a run in the background ignores
            # SIGINT too, but whoever sends it means it.
            ignored = [each for each in WARNED if signal.getsignal(each) == signal.SIG_IGN]
            heard = [each for each in SIGNALS if each not in ignored]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # ends the thread
        self._before = {}

    @contextmanager
    def politely(self) -> Iterator[None]:
        """Within this a signal is only noted."""
        self._polite += 1
        try:
            yield
        finally:
            self._polite -= 1

    def due(self, mesh: Mesh | None = None) -> bool:
        """Whether to leave here. With several processes all have to ask, equally often, and get the
        same answer.

        Args:
          mesh: of all devices; needed with several processes. What it computes runs beside the work
            and is read one call later.
        """
        if self._agreed or not peers.several():
            return self.leaving()
        assert mesh is not None
        mine = np.full(jax.local_device_count(), self._reason(), np.int32)
        self._votes.append(_largest(mesh)(to_global({"votes": mine}, mesh)["votes"]))
        if len(self._votes) > 1:
            self._agreed = int(self._votes.pop(0))
        return self._agreed > 0

    def leaving(self) -> bool:
        """As the last `due` said; where there is one process, as the next one would say."""
        return self._agreed > 0 or (not peers.several() and self._reason() > 0)

    def end(self, where: str) -> None:
        """Leaves: KeyboardInterrupt after Ctrl-C, else Stopped. `where` says what was reached, and
        what is kept."""
        reason, agreed = self._agreed or self._reason(), bool(self._agreed)
        if reason == signal.SIGINT:
            raise Interrupted(f"Stopped {where}", agreed)
        text = f"Stopped {where}; run the same command to go on."
        if reason == _FILE:
            if self._shared:
                raise Stopped(
                    f"{text} ({self._file} was heard, and stays for other runs.)", 0, agreed
                )
            if peers.first() and self._file is not None:
                self._file.unlink(missing_ok=True)
            raise Stopped(f"{text} ({self._file} was heard and removed.)", 0, agreed)
        raise Stopped(text, int(os.environ.get(REQUEUE, "") or 0), agreed)

    def _reason(self) -> int:
        now = time.monotonic()
        if self._file is not None and now - self._looked >= 1.0 and peers.first():
            self._looked, self._there = now, self._asks()
        return self.received or (_FILE if self._there else 0)

    def _asks(self) -> bool:
        """Whether the file asks this run to stop."""
        assert self._file is not None
        try:
            written = self._file.stat().st_mtime
        except FileNotFoundError:
            return False
        return written >= self._began or not self._shared

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if not self._polite:
            self.end("where nothing has to be saved")

    def _listen(self) -> None:
        # A byte for every signal that the kernel delivers, also while a handler runs, or between
        # two runs of it that Python makes one. Equal signals of which the first is not yet
        # delivered are one to the kernel, and so here.
        heard, pipe = 0, self._pipe[0]
        while byte := os.read(pipe, 1):
            number = byte[0]
            if number not in SIGNALS:
                continue
            heard, name = heard + (number in ASKED), signal.Signals(number).name
            if heard > 1 and number in ASKED:
                _say(f"\n{name} once more: ends at once\n")
                os._exit(128 + number)
            self.received = number
            if self._polite:
                _say(f"\n{name}: saving soon, then it ends; once more to end at once\n")
        os.close(pipe)


def _say(text: str) -> None:
    """Writes to stderr, if it takes it now; the next signal must be heard where its reader is gone
    or reads no more."""
    with suppress(OSError):
        if select.select((), (2,), (), 0)[1]:
            os.write(2, text.encode())


@functools.lru_cache(maxsize=4)
def _largest(mesh: Mesh) -> Any:
    return jax.jit(lambda votes: votes.max(), out_shardings=replicated(mesh))
