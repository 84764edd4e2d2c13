"""All checks of a machine and a configuration, in the order in which they are worth repairing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from stedm_jax.common.files import write_json
from stedm_jax.doctor import inputs, machine, storage
from stedm_jax.doctor.findings import Finding, findings_of
from stedm_jax.experiment.devices import divide_cpu
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.models.functional import param_count
from stedm_jax.settings.root import Settings
from stedm_jax.settings.training import Training
from stedm_jax.tasks.build import build_autoencoder, build_generator
from stedm_jax.training.task import Task

COLORS = ((0, 0, 0), (255, 255, 255))
"""Of two classes: how many there are changes the size of a generator little."""


def examine(settings: Settings | None, path: Path, json_file: str = "") -> int:
    """Prints what every check finds.

    Args:
      settings: of the experiment; None checks the machine alone.
      path: of the workdir, whose disk is checked.
      json_file: where the findings are written, as JSON; "": nowhere.

    Returns:
      0 if no check failed, 2 if one did.
    """
    needed = lambda: workdir_bytes(settings) if settings else 0.0  # noqa: E731
    steps: dict[str, Callable[[], Any]] = {
        "python": machine.python,
        "libraries": machine.libraries,
        "openslide": machine.openslide,
        "processes": inputs.processes,
        "devices": machine.devices,
        "memory": lambda: machine.memory(settings.data.cache_mb if settings else 0),
        "shared memory": machine.shared_memory,
        "open files": machine.open_files,
        "disk": lambda: storage.space(path, needed()),
        "workdir": lambda: storage.speed(path),
        "compile cache": lambda: storage.compile_cache(path),
        "in use": lambda: storage.in_use(path),
    }
    if settings:
        steps["made before"] = lambda: inputs.made_before(settings, Workdir(path))
        steps["cells"] = lambda: inputs.cells(settings, Workdir(path))
        steps["data"] = lambda: inputs.data(settings, Workdir(path))
        divide_cpu(settings.mesh.cpu_devices)  # as a run does, before jax finds its devices
    found: list[Finding] = []
    for name, check in steps.items():
        for finding in findings_of(name, check):
            found.append(finding)
            print(finding, flush=True)
    counts = Counter(finding.verdict for finding in found)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("PASS", "WARN", "FAIL"))
    print(f"\n{len(found)} findings: {summary}", flush=True)
    if json_file:
        write_json(Path(json_file), [asdict(finding) for finding in found])
    return 2 if counts["FAIL"] else 0


def workdir_bytes(settings: Settings) -> float:
    """Bytes, about, that a run leaves in its workdir: checkpoints and synthetic tiles."""
    first, total = build_autoencoder(settings, jnp.float32), 0.0
    trained: dict[str, list[tuple[Task, Training]]] = {
        "autoencoder": [(first, settings.autoencoder.train)],
        "generator": [
            (
                build_generator(settings, name, first, COLORS, jnp.float32),
                settings.generator(name).train,
            )
            for name in settings.diffusion.generators
        ],
    }
    for task, train in (each for stage in settings.stages for each in trained.get(stage, ())):
        copies = 0.0
        if train.steps:  # parameters, two moments, the moving averages
            copies = (train.keep + 1) * (3 + (train.ema.decay > 0) + len(train.ema.tracks))
        if train.ema.snapshot_every:
            copies += len(train.ema.tracks) * train.steps / train.ema.snapshot_every
        total += 4 * copies * param_count(jax.eval_shape(task.init, jax.random.key(0)))
    if "synthesis" in settings.stages:
        sets = map(settings.synthesis_set, settings.synthesis.sets)
        total += 2 * 3 * settings.data.tile**2 * sum(each.count for each in sets)
    return total
