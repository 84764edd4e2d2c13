"""Curves and pictures on disk (JSONL, TensorBoard, PNG). Only process 0 writes."""

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from stedm_jax.common.files import write_text
from stedm_jax.training.mirror import Mirror
from stedm_jax.training.tensorboard import EventFile


class MetricLog:
    """`metrics.jsonl`, TensorBoard events and pictures (`images/<name>-<step>.png`) in a directory.

    Opened at the step from which training goes on: rows of later steps, and a torn last row, are
    dropped, so that no step is there twice. `wandb`: as config.train.wandb.
    """

    def __init__(self, dir: Path, step: int = 0, wandb: str = "") -> None:
        dir = Path(dir)
        self.path, self._images = dir / "metrics.jsonl", dir / "images"
        self._active = jax.process_index() == 0
        if self._active:
            dir.mkdir(parents=True, exist_ok=True)
            self._truncate(step)
            self._file = self.path.open("a")
            self._shown = (Mirror(dir, wandb), EventFile(dir / "tensorboard", step))

    def scalars(self, step: int, values: Mapping[str, float], prefix: str = "") -> None:
        """Writes one row: `step`, `time` (unix seconds) and the values, their names after
        `prefix`."""
        if not self._active:
            return
        named = {prefix + name: float(value) for name, value in values.items()}
        row: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        for name, value in named.items():
            row[name] = value if math.isfinite(value) else None  # JSON has no NaN
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError:
            with suppress(OSError):  # closing would try once more
                self._file.close()
            raise
        self._show(step, named)

    def images(self, step: int, pictures: Mapping[str, Any]) -> None:
        """Writes uint8 (h, w, 3) pictures by name."""
        if not self._active:
            return
        self._images.mkdir(exist_ok=True)
        pixels = {name: np.asarray(picture) for name, picture in pictures.items()}
        for name, picture in pixels.items():
            file = self._images / f"{name.replace('/', '_')}-{step:08d}.png"
            Image.fromarray(picture).save(file)
        self._show(step, pixels)

    def close(self) -> None:
        """Flushes and closes all files."""
        if self._active:
            self._file.close()
            for each in self._shown:
                each.close()

    def _show(self, step: int, values: Mapping[str, Any]) -> None:
        for each in self._shown:
            each.log(step, values)

    def _truncate(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = (json.dumps(row) + "\n" for row in read_rows(self.path) if row["step"] <= step)
        write_text(self.path, "".join(kept))


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
