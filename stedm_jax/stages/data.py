"""Stage data: prepares the tiles with the commands that the configuration names, and checks them."""

import os
import shlex
import subprocess
import sys

from stedm_jax.errors import UserError
from stedm_jax.stages.run import Run


def run(run: Run) -> None:
    """Runs what data.prepare lists, unless the tiles are there; then opens and verifies them.

    Raises:
      UserError: there are no tiles and nothing to make them from, a command failed, or the tiles are damaged.
    """
    data = run.config.data
    if not data.tiles:
        raise UserError(data.missing or "config.data.tiles is empty; name the folder of a prepared tile set.")
    with run.workdir.timed("data") as result:
        if not (run.tiles_path / "manifest.json").exists():
            if not data.prepare:
                text = data.missing or "Prepare one with data_prep.slides or data_prep.folder."
                raise UserError(f"There is no tile set in {run.tiles_path}. {text}")
            for command in data.prepare:
                _prepare(run, command)
        run.tiles.verify()
        result["records"] = {split: len(run.tiles.index(split)) for split in run.tiles.splits}
        result["patients"] = {split: len(run.tiles.patients(split)) for split in run.tiles.splits}
        result["fingerprint"] = run.tiles.fingerprint
        result["classes"] = list(run.classes.names)
    counts = ", ".join(f"{split} {number}" for split, number in result["records"].items())
    print(f"data: {run.tiles_path}: tiles {counts}; classes {', '.join(run.classes.names)}", flush=True)


def check_unchanged(run: Run) -> None:
    """Refuses to go on, or to call a run done, on other tiles than those it began with.

    Raises:
      UserError: the tile set was made anew or replaced since stage data verified it.
    """
    began_with = (run.workdir.result("data") or {}).get("fingerprint")
    if began_with and (run.tiles_path / "manifest.json").exists() and run.tiles.fingerprint != began_with:
        raise UserError(
            f"The tiles in {run.tiles_path} are not those that {run.workdir.path} began with (fingerprint "
            f"{run.tiles.fingerprint[:12]}, then {began_with[:12]}). Bring those back, or give another --workdir."
        )


def _prepare(run: Run, template: str) -> None:
    module, *arguments = [run.workdir.fill(word) for word in shlex.split(template)]
    command = shlex.join([module, *arguments])
    if not module.startswith("data_prep."):
        raise UserError(f"config.data.prepare names '{module}'; only commands of data_prep can stand there.")
    print(f"data: python -m {command}", flush=True)
    # A command must not outlive a run that was killed: the next one would find it writing.
    environment = os.environ | {"STEDM_JAX_PARENT": str(os.getpid())}
    status = subprocess.run(
        [sys.executable, "-m", module, *arguments], check=False, env=environment, pass_fds=run.workdir.held
    ).returncode
    if status == 1:
        raise UserError(
            f"The command 'python -m {command}' left out what it could not read; see its message above. Mend that and "
            "delete the tiles; or run the same command again to go on without it."
        )
    if status:
        raise UserError(f"The command 'python -m {command}' failed with status {status}; see its message above.")
