"""A run that was made before, opened for reading."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import read_json
from stedm_jax.common.labels import VOID
from stedm_jax.data.classes import ClassMap
from stedm_jax.data.remote import MANIFEST, is_remote
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.devices import devices, divide_cpu
from stedm_jax.experiment.exported_run import Exported, is_export
from stedm_jax.experiment.segmenters import ABOUT
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
    return from_flat(read_json(file), str(file))


def open_run(folder: Path) -> Context:
    """A run, or an exported one, on all devices of this process; uses its compile cache if it can
    be written. Its tiles need not be there; those that an exported run names are not looked for.

    Raises:
      UserError: as `saved_settings`, or a damaged export.
    """
    kept = Exported.open(folder) if is_export(folder) else None
    settings = saved_settings(folder)
    if kept:
        settings = replace(settings, data=replace(settings.data, tiles=""))
    divide_cpu(settings.mesh.cpu_devices)
    cache = folder / ".compile_cache"
    # What is in a cache is executed, and an exported run may be of anybody.
    if kept is None and settings.compile_cache and os.access(cache, os.W_OK):
        enable_compile_cache(cache)
    context = Context(settings, Workdir(folder), make_mesh(devices=devices()), kept=kept)
    return replace(context, noted=_noted(context))


def _noted(context: Context) -> ClassMap | None:
    """The classes as segmenters learned them; None where the tiles are there to give them."""
    tiles, file = context.workdir.fill(context.settings.data.tiles), context.workdir.path / ABOUT
    if is_remote(tiles) or Path(tiles, MANIFEST).is_file() or not file.is_file():
        return None
    about = read_json(file)
    colors = tuple((int(r), int(g), int(b)) for r, g, b in about["colors"])
    unknown = np.full(256, VOID, np.uint8)
    return ClassMap(tuple(about["classes"]), colors, unknown, tuple(about["foreground"]))


def check_made_with(workdir: Workdir, settings: Settings, name: str) -> None:
    """Refuses a cell that was made with other settings than those that the workdir has now.

    Raises:
      UserError: names the settings.
    """
    graph = Graph(settings)
    if name not in graph.cells:
        return
    for cell in (name, *sorted(graph.before(name))):
        if changed := workdir.differences(graph[cell]):
            raise UserError(
                f"{cell} in {workdir.path} was made with settings other than in its "
                f"config.json ({'; '.join(changed)}). Run the training again, with --on_change=redo"
                " to make it again or --on_change=keep to use it as it is."
            )
