"""Stage data: prepares the tiles with the commands that the configuration names, and checks
them."""

import os
import shlex
import subprocess
import sys

from stedm_jax.common.errors import ORPHANED, PARENT, UserError
from stedm_jax.stages.run import Run
from stedm_jax.training import peers


def run(run: Run) -> None:
    """Runs what data.prepare lists, unless the tiles are there; then opens and verifies them.

    Raises:
      UserError: there are no tiles and nothing to make them from, a command failed, or the tiles
        are damaged.
    """
    data = run.config.data
    if not data.tiles:
        raise UserError(
            data.missing or "config.data.tiles is empty; name the folder of a prepared tile set."
        )
    with run.workdir.timed("data") as result:
        peers.on_first(lambda: _make(run))
        result["records"] = {split: len(run.tiles.index(split)) for split in run.tiles.splits}
        result["patients"] = {split: len(run.tiles.patients(split)) for split in run.tiles.splits}
        result["fingerprint"] = run.tiles.fingerprint
        result["classes"] = list(run.classes.names)
    counts = ", ".join(f"{split} {number}" for split, number in result["records"].items())
    print(
        f"data: {run.tiles_path}: tiles {counts}; classes {', '.join(run.classes.names)}",
        flush=True,
    )


def _make(run: Run) -> None:
    data = run.config.data
    if not (run.tiles_path / "manifest.json").exists():
        if not data.prepare:
            text = (
                data.missing
                or "Prepare one with data_prep.slides or data_prep.folder (data_prep/README.md)."
            )
            raise UserError(f"There is no tile set in {run.tiles_path}. {text}")
        for command in data.prepare:
            _prepare(run, command)
    run.tiles.verify()


def check_unchanged(run: Run, on_change: str) -> None:
    """Notices tiles that are not those the run began with: made anew, or replaced, since stage data
    verified them.

    Args:
      run: the run.
      on_change: "refuse"; "redo", which deletes what was learnt from the other tiles; or "keep".

    Raises:
      UserError: there are such tiles, under "refuse".
    """
    began_with = (run.workdir.result("data") or {}).get("fingerprint")
    if (
        not began_with
        or not (run.tiles_path / "manifest.json").exists()
        or run.tiles.fingerprint == began_with
    ):
        return
    text = f"The tiles in {run.tiles_path} are not those that {run.workdir.path} began with"
    if on_change == "refuse":
        raise UserError(
            f"{text}. Bring those back, or give another --workdir; or --on_change=redo to learn again from these; or "
            "--on_change=keep to go on with what was learnt from those."
        )
    print(f"changed  {text}", flush=True)
    if on_change == "redo":
        run.workdir.forget("data")


def _prepare(run: Run, template: str) -> None:
    module, *arguments = [run.workdir.fill(word) for word in shlex.split(template)]
    command = shlex.join([module, *arguments])
    if not module.startswith("data_prep."):
        raise UserError(
            f"config.data.prepare names '{module}'; only commands of data_prep can stand there."
        )
    print(f"data: python -m {command}", flush=True)
    # A command must not outlive a run that was killed: the next one would find it writing.
    environment = os.environ | {PARENT: str(os.getpid())}
    status = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        env=environment,
        pass_fds=run.workdir.held,
    ).returncode
    if status == ORPHANED:
        raise UserError(
            f"The command 'python -m {command}' lost sight of this run and ended; run the same again."
        )
    if status == 1:
        raise UserError(
            f"The command 'python -m {command}' left out what it could not read; see its message above. Mend that and "
            "run the same again: only what is missing is packed; or run the same again to go on without it."
        )
    if status:
        raise UserError(
            f"The command 'python -m {command}' failed with status {status}; see its message above."
        )
