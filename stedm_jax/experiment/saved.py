"""A run that was made before, opened for reading."""

import json
import os
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.devices import divide_cpu
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.load import from_flat
from stedm_jax.settings.root import Settings
from stedm_jax.training.hardware import enable_compile_cache
from stedm_jax.training.sharding import make_mesh


def saved_settings(folder: Path) -> Settings:
    """The settings of a run from its workdir; keys that it lacks have the default.

    Raises:
      UserError: the folder is no workdir, or one of version 0.1.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            f"{folder} is no workdir of a run: it has no config.json. Give the --workdir of a "
            "training."
        )
    Workdir(folder).check_place()
    return from_flat(json.loads(file.read_text()), str(file))


def open_run(folder: Path) -> Context:
    """A run on all devices of this process; uses its compile cache if it can be written.

    Raises:
      UserError: as `saved_settings`.
    """
    settings = saved_settings(folder)
    divide_cpu(settings.mesh.cpu_devices)
    cache = folder / ".compile_cache"
    if settings.compile_cache and os.access(cache, os.W_OK):
        enable_compile_cache(cache)
    return Context(settings, Workdir(folder), make_mesh())
