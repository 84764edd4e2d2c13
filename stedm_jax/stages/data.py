"""Stage data: prepares the tiles with the commands that the configuration names, and checks
them."""

import importlib.util
import os
import shlex
import subprocess
import sys
from typing import Any

from stedm_jax.common.errors import ORPHANED, PARENT, UserError
from stedm_jax.common.files import expand_home
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.check import check_data
from stedm_jax.experiment.context import Context
from stedm_jax.training import peers


def run(context: Context, cell: Cell, learned: Any) -> None:
    """Runs what data.prepare lists, unless the tiles are there; then opens and verifies them.

    Raises:
      UserError: there are no tiles and nothing to make them from, a command failed, or the tiles
        are damaged.
    """
    peers.on_first(lambda: check_data(context))
    with context.workdir.timed(cell.name) as result:
        peers.on_first(lambda: _make(context))
        tiles, classes = context.tiles, context.classes.names
        result["records"] = {split: len(tiles.index(split)) for split in tiles.splits}
        result["patients"] = {split: len(tiles.patients(split)) for split in tiles.splits}
        result["fingerprint"] = tiles.fingerprint
        result["classes"] = list(classes)
    counts = ", ".join(f"{split} {number}" for split, number in result["records"].items())
    print(f"data: {context.tiles_path}: tiles {counts}; classes {', '.join(classes)}", flush=True)


def _make(context: Context) -> None:
    data = context.settings.data
    if not (context.tiles_path / "manifest.json").exists():
        for command in data.prepare:
            _prepare(context, command)
    context.tiles.verify()


def _prepare(context: Context, template: str) -> None:
    workdir = context.workdir
    module, *arguments = [expand_home(workdir.fill(word)) for word in shlex.split(template)]
    command = f"python -m {shlex.join([module, *arguments])}"
    if not module.startswith("data_prep."):
        raise UserError(
            f"config.data.prepare names '{module}'; only commands of data_prep can stand there."
        )
    if importlib.util.find_spec(module) is None:
        raise UserError(f"config.data.prepare names '{module}', and there is no such command.")
    print(f"data: {command}", flush=True)
    # A command must not outlive a run that was killed: the next one would find it writing.
    environment = os.environ | {PARENT: str(os.getpid())}
    line = [sys.executable, "-m", module, *arguments]
    status = subprocess.run(line, check=False, env=environment, pass_fds=workdir.held).returncode
    if status == ORPHANED:
        raise UserError(f"The command '{command}' lost this run and ended; run the same again.")
    if status == 1:
        raise UserError(
            f"The command '{command}' left out what it could not read; see its message above."
            " Repair that and run the same again: only what is missing is packed; or run the same"
            " again to go on without it."
        )
    if status:
        raise UserError(
            f"The command '{command}' failed with status {status}; see its message above."
        )
