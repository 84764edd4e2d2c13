"""Curves and pictures on Weights & Biases besides, for those who ask for it (train.wandb).

A mirror only: what it fails to show is in `metrics.jsonl` all the same, and no failure of it stops
  a training. The
project is that of WANDB_PROJECT, or stedm_jax; a run that goes on is the same run there.
"""

import importlib
import importlib.util
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError

MODES = ("", "offline", "online")
PATIENCE = 60.0
"""Seconds that the last upload may take."""


def check_mode(mode: str) -> None:
    """Refuses, before anything runs, to show the curves on wandb where that is not installed.

    Raises:
      UserError: `mode`, that of train.wandb, asks for it.
    """
    if mode and importlib.util.find_spec("wandb") is None:
        raise UserError(_missing(mode, "it is not installed"))


def _missing(mode: str, why: object) -> str:
    return (
        f"train.wandb is '{mode}', and wandb cannot be imported ({why}): pip install 'stedm_jax[wandb]', or set "
        "train.wandb to '' for none."
    )


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
        if not mode:
            return
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # would use the network for itself
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(_missing(mode, error)) from error
        name = "/".join(Path(dir).absolute().parts[-2:])
        self._safely(lambda: self._start(Path(dir), mode, name))

    def _start(self, dir: Path, mode: str, name: str) -> None:
        file = dir / "wandb.id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex[:16])
        settings = self._wandb.Settings(
            init_timeout=PATIENCE, login_timeout=PATIENCE, console="off"
        )
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "stedm_jax"),
            name=name,
            id=file.read_text().strip(),
            resume="allow",
            mode=mode,
            dir=str(dir),
            settings=settings,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        if self._run is not None:
            self._safely(lambda: self._run.log(dict(values), step=step))

    def image(self, step: int, name: str, pixels: Any) -> None:
        """A uint8 (h, w, 3) picture."""
        if self._run is not None:
            self._safely(lambda: self._run.log({name: self._wandb.Image(pixels)}, step=step))

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
            print(
                f"wandb is left out from here on: {type(error).__name__}: {error}"[:500], flush=True
            )
