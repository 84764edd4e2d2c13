"""What one sees: curves on disk (JSONL, TensorBoard) and a status line. Only process 0 writes."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from stedm_jax.training.hardware import memory_used
from stedm_jax.training.mirror import Mirror
from stedm_jax.training.tensorboard import EventFile


class MetricLog:
    """`metrics.jsonl`, TensorBoard events and pictures (`images/<name>-<step>.png`) in a directory.

    Opened at the step from which training goes on: rows of later steps, and a torn last row, are
      dropped,
    so that no step is there twice. `wandb`: one of mirror.MODES.
    """

    def __init__(self, dir: Path, step: int = 0, wandb: str = "") -> None:
        self.path = Path(dir) / "metrics.jsonl"
        self._images = Path(dir) / "images"
        self._active = jax.process_index() == 0
        if self._active:
            Path(dir).mkdir(parents=True, exist_ok=True)
            self._truncate(step)
            self._file = open(self.path, "a")  # noqa: SIM115
            self._board = EventFile(Path(dir) / "tensorboard", step)
            self._mirror = Mirror(Path(dir), wandb)

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Writes one row: `step`, `time` (unix seconds) and the values, their names after
        `prefix`."""
        if not self._active:
            return
        named = {prefix + name: float(value) for name, value in values.items()}
        row = {
            name: value if math.isfinite(value) else None for name, value in named.items()
        }  # JSON has no NaN
        try:
            self._file.write(
                json.dumps({"step": step, "time": round(time.time(), 3), **row}) + "\n"
            )
            self._file.flush()
        except OSError:
            with suppress(OSError):  # closing would try once more
                self._file.close()
            raise
        self._mirror.scalars(step, named)
        self._board.scalars(step, named)

    def images(self, step: int, pictures: Mapping[str, Any]) -> None:
        """Writes uint8 (h, w, 3) pictures by name."""
        if not self._active:
            return
        self._images.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            pixels = np.asarray(picture)
            self._mirror.image(step, name, pixels)
            Image.fromarray(pixels).save(self._images / f"{name.replace('/', '_')}-{step:08d}.png")
            self._board.image(step, name, pixels)

    def close(self) -> None:
        """Flushes and closes all files."""
        if self._active:
            self._file.close()
            self._mirror.close()
            self._board.close()

    def _truncate(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = "".join(
            json.dumps(row) + "\n" for row in read_rows(self.path) if row["step"] <= step
        )
        partial = self.path.with_suffix(".partial")
        partial.write_text(kept)
        partial.replace(self.path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a `metrics.jsonl`; a last row torn by a kill is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


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
        start: int = 0,
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
        self._mark = (
            0.0,
            0,
            0.0,
        )  # busy seconds, steps and waited seconds at the last call of rates()

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
        shown = "" if loss is None else f"loss {loss:.4g}  "
        share = (
            f"MFU {self._flops * speed / self._peak:.1%}  " if self._peak and self._flops else ""
        )
        return (
            f"step {step:,}/{self.steps:,}  {step * self.batch:,} images  {shown}{speed * self.batch:.3g} images/s  "
            f"{share}wait {self._waited / busy:.0%}  {what} {count(used)}B  ETA {clock(left)}"
        )

    def _show(self, text: str) -> None:
        if jax.process_index() != 0:
            return
        if not self._tty:
            return self.note(text)
        line = f"[{self.label}] {text}"
        self._out.write("\r" + line.ljust(self._width))
        self._out.flush()
        self._width = len(line)


def count(number: float) -> str:
    """A large number with its unit: 1.23 G."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    whole = int(seconds + 0.5)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
