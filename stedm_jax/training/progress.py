"""The status line. Only process 0 writes."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from stedm_jax.common.text import duration, size_of
from stedm_jax.training.hardware import memory_used


class Progress:
    """The status line: stage, step, images, loss, images/s, MFU, share of time spent waiting for
    data, memory, ETA.

    On a terminal one line is rewritten; elsewhere a line is printed at most every `interval`
    seconds. Time inside `paused()` (evaluation, saving, compiling) counts in no speed.
    """

    def __init__(
        self,
        label: str,
        steps: int,
        batch: int,
        interval: float = 5.0,
        out: Any = None,
    ) -> None:
        self.label, self.steps, self.batch = label, steps, batch
        self._out = out or sys.stdout
        self._tty = self._out.isatty()
        self._interval = 0.2 if self._tty else interval
        self._width, self._last_print = 0, -math.inf
        self._began, self._pauses = time.perf_counter(), 0.0
        self._done, self._waited = 0, 0.0
        self._flops, self._peak = 0.0, None
        self._mark = (0.0, 0, 0.0)  # busy seconds, steps, waited seconds at the last rates()

    def advance(self, step: int, loss: float | None = None, waited: float = 0.0) -> None:
        """Counts one step, `waited` seconds of it spent waiting for data; prints when it is
        time."""
        self._done, self._waited = self._done + 1, self._waited + waited
        now = time.perf_counter()
        if now - self._last_print >= self._interval:
            self._last_print = now
            self._show(self._line(step, loss))

    def measure(self, flops: float, peak: float | None) -> None:
        """FLOPs of a step on one device, and what that device could do in a second, where it is
        known: shows MFU."""
        self._flops, self._peak = flops, peak

    def rates(self) -> dict[str, float]:
        """`images_per_second` and `data_wait` (a share, 0 to 1) since the last call."""
        now = (self._busy(), self._done, self._waited)
        seconds, steps, waited = (new - old for new, old in zip(now, self._mark, strict=True))
        self._mark = now
        seconds = max(seconds, 1e-9)
        return {
            "images_per_second": steps * self.batch / seconds,
            "data_wait": min(1.0, waited / seconds),
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._pauses += time.perf_counter() - began

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        if jax.process_index() == 0:
            gap = "\r" + " " * self._width + "\r" if self._tty and self._width else ""
            print(f"{gap}[{self.label}] {text}", file=self._out, flush=True)
            self._width = 0

    def _busy(self) -> float:
        return time.perf_counter() - self._began - self._pauses

    def _line(self, step: int, loss: float | None) -> str:
        busy = max(self._busy(), 1e-9)
        speed = self._done / busy
        left = (self.steps - step) / max(speed, 1e-9)
        what, used = memory_used()
        parts = [
            f"step {step:,}/{self.steps:,}",
            f"{step * self.batch:,} images",
            "" if loss is None else f"loss {loss:.4g}",
            f"{speed * self.batch:.3g} images/s",
            f"MFU {self._flops * speed / self._peak:.1%}" if self._peak and self._flops else "",
            f"wait {self._waited / busy:.0%}",
            f"{what} {size_of(used)}",
            f"ETA {duration(left)}",
        ]
        return "  ".join(part for part in parts if part)

    def _show(self, text: str) -> None:
        if jax.process_index() != 0:
            return
        if not self._tty:
            return self.note(text)
        line = f"[{self.label}] {text}"
        self._out.write("\r" + line.ljust(self._width))
        self._out.flush()
        self._width = len(line)
