"""Curves and pictures on Weights & Biases too, where that is asked for (train.wandb).

A mirror only: what it fails to show is in `metrics.jsonl` all the same, and no failure of it stops
a training. The project is that of WANDB_PROJECT, or stedm_jax; a run that goes on is the same run
there.
"""

import importlib
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError

PATIENCE = 60.0
"""Seconds that the last upload may take."""


def load_wandb(mode: str) -> Any:
    """The package wandb; None where `mode`, that of train.wandb, is "".

    Raises:
      UserError: it is not installed.
    """
    if not mode:
        return None
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # would use the network for itself
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(
            f"train.wandb is '{mode}', and wandb cannot be imported ({error}): pip install "
            "'stedm_jax[wandb]', or set train.wandb to '' for none."
        ) from error


class Mirror:
    """A run of wandb; nothing at all where `mode` is "".

    Args:
      dir: of the log; offline runs are kept there too, below `wandb` (send one with `wandb sync
        FOLDER`).
      mode: "offline" keeps off the network.

    Raises:
      UserError: wandb is not installed.
    """

    def __init__(self, dir: Path, mode: str = "") -> None:
        self._run: Any = None
        self._wandb = load_wandb(mode)
        if mode:
            self._safely(lambda: self._start(dir, mode))

    def _start(self, dir: Path, mode: str) -> None:
        file = dir / "wandb.id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex[:16])
        patience = {"init_timeout": PATIENCE, "login_timeout": PATIENCE}
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "stedm_jax"),
            name="/".join(dir.absolute().parts[-2:]),
            id=file.read_text().strip(),
            resume="allow",
            mode=mode,
            dir=str(dir),
            settings=self._wandb.Settings(**patience, console="off"),
        )

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers and uint8 (h, w, 3) pictures by name."""
        if self._run is None:
            return
        shown = {
            name: self._wandb.Image(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
        self._safely(lambda: self._run.log(shown, step=step))

    def close(self) -> None:
        """Ends the run; gives up on what could not be sent for PATIENCE seconds."""
        if self._run is None:
            return
        last = threading.Thread(target=lambda: self._safely(self._run.finish), daemon=True)
        last.start()
        last.join(PATIENCE)
        self._run = None

    def _safely(self, function: Callable[[], Any]) -> None:
        try:
            function()
        except Exception as error:
            self._run = None
            why = f"{type(error).__name__}: {error}"[:400]
            print(f"wandb is left out from here on: {why}", flush=True)
