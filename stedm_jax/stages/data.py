"""Stage data: prepares the tiles with the commands that the configuration names, and checks them."""

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
        result["classes"] = list(run.classes.names)
    counts = ", ".join(f"{split} {number}" for split, number in result["records"].items())
    print(f"data: {run.tiles_path}: tiles {counts}; classes {', '.join(run.classes.names)}", flush=True)


def _prepare(run: Run, template: str) -> None:
    module, *arguments = [run.workdir.fill(word) for word in shlex.split(template)]
    command = shlex.join([module, *arguments])
    if not module.startswith("data_prep."):
        raise UserError(f"config.data.prepare names '{module}'; only commands of data_prep can stand there.")
    print(f"data: python -m {command}", flush=True)
    status = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if status == 1:
        raise UserError(
            f"The command 'python -m {command}' left out what it could not read; see its message above. Mend that and "
            "delete the tiles; or run the same command again to go on without it."
        )
    if status:
        raise UserError(f"The command 'python -m {command}' failed with status {status}; see its message above.")
