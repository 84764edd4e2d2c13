"""All checks of a machine and a configuration, in the order in which they are worth mending."""

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stedm_jax.doctor import inputs, machine, storage
from stedm_jax.doctor.findings import Finding, checked, lines
from stedm_jax.stages import start
from stedm_jax.workdir import Workdir, write_text


def examine(config: Any, workdir: Workdir | None, json_file: str = "") -> int:
    """Prints what every check finds.

    Args:
      config: of the experiment; None checks the machine alone.
      workdir: where its disk is checked; None: the working directory.
      json_file: where the findings are written, as JSON; "": nowhere.

    Returns:
      0 if no check failed, 2 if one did.
    """
    path = workdir.path if workdir else Path("runs")
    steps: list[tuple[str, Any]] = [
        ("python", machine.python),
        ("libraries", machine.libraries),
        ("openslide", machine.openslide),
        ("processes", inputs.processes),
        ("devices", machine.devices),
        ("memory", lambda: machine.memory(config.data.cache_mb if config else 0)),
        ("shared memory", machine.shared_memory),
        ("open files", machine.open_files),
        ("disk", lambda: storage.room(path, leaves(config) if config else 0.0)),
        ("workdir", lambda: storage.speed(path)),
        ("compile cache", lambda: storage.compile_cache(path)),
        ("in use", lambda: storage.in_use(path)),
    ]
    if config and workdir:
        steps += [
            ("batch", lambda: inputs.batches(config)),
            ("weights", lambda: inputs.weights(config)),
            ("data", lambda: inputs.data(config, workdir)),
        ]
        start.divide_cpu(config.mesh.cpu_devices)  # as a run does, before jax finds its devices
    found: list[Finding] = []
    for name, check in steps:
        for finding in checked(name, check):
            found.append(finding)
            print("\n".join(lines(finding)), flush=True)
    counts = Counter(finding.verdict for finding in found)
    print(
        f"\n{len(found)} findings: {counts['PASS']} PASS, {counts['WARN']} WARN, {counts['FAIL']} FAIL",
        flush=True,
    )
    if json_file:
        write_text(Path(json_file), json.dumps([asdict(finding) for finding in found], indent=1))
    return 2 if counts["FAIL"] else 0


def leaves(config: Any) -> float:
    """Bytes, about, that a run leaves in its workdir: checkpoints and synthetic tiles."""
    import jax

    from stedm_jax.doctor.programs import abstract_params

    total = 0.0
    for stage, params in abstract_params(config):
        train = config[stage].train
        size = 4.0 * sum(leaf.size for leaf in jax.tree.leaves(params))
        # parameters, two moments, the moving averages
        copies = 3 + (train.ema.decay > 0) + len(train.ema.tracks)
        total += size * copies * (train.keep + 1)
        if train.ema.snapshot_every:
            total += (
                size * len(train.ema.tracks) * math.ceil(train.steps / train.ema.snapshot_every)
            )
    pixels = config.data.tile**2
    return total + 2.0 * config.synthesis.count * pixels * 3 * ("synthesis" in config.stages)
