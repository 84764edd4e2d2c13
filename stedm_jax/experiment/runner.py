"""Brings up devices and workdir, says what will happen, and runs the stages one after the other."""

import importlib
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from typing import Any

import jax

from stedm_jax.stages.arms import check_arm
from stedm_jax.stages.check import check_stages, check_whole
from stedm_jax.stages.data import check_unchanged
from stedm_jax.stages.initial import check_sources, source_folder
from stedm_jax.stages.plan import print_plan
from stedm_jax.stages.run import Run
from stedm_jax.training import peers
from stedm_jax.training.cache import enable_compile_cache
from stedm_jax.training.sharding import make_mesh
from stedm_jax.training.signals import Signals
from stedm_jax.workdir import STAGES, Workdir, flatten


def divide_cpu(count: int) -> None:
    """Makes a CPU several devices, so that its cores work on a batch in parallel; other hardware
    does not notice.

    Args:
      count: devices; 0 takes the largest power of two that is not above the number of cores, at
        most 8.

    XLA uses the cores of one CPU device poorly for small networks: two devices on two cores trained
      the networks of the
    demo about 1.4 times faster. A number given through XLA_FLAGS stands.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    jax.config.update("jax_num_cpu_devices", count or min(8, 2 ** (cores.bit_length() - 1)))


def plan(config: Any, workdir: Workdir) -> None:
    """Prints what would be run, with parameter counts and cost; touches nothing.

    Raises:
      UserError: what a run would refuse at once, but for what depends on the devices.
    """
    check_stages(Run(config, workdir, make_mesh(devices=jax.devices()[:1])), config.stages)
    print_plan(config, workdir)


def _changes(config: Any) -> dict[str, Any]:
    """The keys whose values are not those of the paper."""
    paper = flatten(importlib.import_module("configs.base").get_base())
    return {key: value for key, value in flatten(config).items() if paper.get(key) != value}


def run_stages(config: Any, workdir: Workdir, wanted: Sequence[str], on_change: str) -> None:
    """Runs the wanted stages in their order; finished ones are skipped.

    Of several processes each calls this; process 0 alone writes into the workdir and speaks, but
    for errors.

    Raises:
      UserError: the configuration does not go with the workdir, or a stage meets something the user
        can mend.
      Stopped, KeyboardInterrupt: told to stop.
    """
    with ExitStack() as stack:
        workdir.writes = peers.first()
        if not workdir.writes:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        signals = stack.enter_context(Signals(workdir.path))
        divide_cpu(config.mesh.cpu_devices)
        peers.on_first(lambda: stack.enter_context(workdir.locked()))
        run = Run(config, workdir, make_mesh(config.mesh.data, config.mesh.fsdp), signals)
        stack.callback(_damaged, run)
        stages = [stage for stage in STAGES if stage in wanted]
        # Before anything is deleted, and before this configuration becomes that of the workdir.
        check_stages(run, peers.on_first(lambda: workdir.pending(config, stages)))
        for line in peers.on_first(lambda: workdir.adopt(config, on_change)):
            print(f"changed  {line}", flush=True)
        if config.compile_cache:
            enable_compile_cache(workdir.path / ".compile_cache")
        _run(run, stages, on_change)


def _run(run: Run, stages: Sequence[str], on_change: str) -> None:
    begun, config, workdir = time.monotonic(), run.config, run.workdir
    devices = jax.devices()
    print(
        f"stedm_jax: {config.name} in {workdir.path} on {len(devices)} x {devices[0].device_kind} "
        f"({devices[0].platform}), {jax.process_count()} process(es), mesh {dict(run.mesh.shape)}",
        flush=True,
    )
    peers.on_first(lambda: check_unchanged(run, on_change))
    _tell(run)
    done = {stage: workdir.result(stage) for stage in stages}
    states = (f"{stage} (done)" if done[stage] else stage for stage in stages)
    for key, value in sorted(_changes(config).items()):
        print(f"config  {key} = {value}", flush=True)
    print(f"plan: {', '.join(states)}", flush=True)
    left = [stage for stage in stages if done[stage] is None]
    whole = "report" in left
    for number, stage in enumerate(left):
        if "data" not in left[number:]:
            _check_weights(config, left[number:])
            if whole:  # once the tiles are known
                peers.on_first(lambda: check_whole(run))
                whole = False
        if run.signals.due(run.mesh):
            run.signals.end(f"before the stage {stage}")
        importlib.import_module(f"stedm_jax.stages.{stage}").run(run)
        _tell(run)
    if all(done.values()):
        print(f"All is done in {workdir.path}.", flush=True)
    if "report" in stages:
        importlib.import_module("stedm_jax.stages.report").show(run)
    print(f"{time.monotonic() - begun:.0f} s", flush=True)


def _damaged(run: Run) -> None:
    if run.damaged:
        print(
            f"{len(run.damaged)} damaged record(s) were met: {'; '.join(sorted(run.damaged)[:20])}",
            flush=True,
        )


def _tell(run: Run) -> None:
    """Lets every process know what the stages left, which only process 0 reads from the disk; waits
    for it."""
    run.workdir.told = peers.on_first(
        lambda: {stage: run.workdir.result(stage) for stage in STAGES}
    )


def _check_weights(config: Any, stages: Sequence[str]) -> None:
    """Refuses before hours of training what a later stage could not start from."""
    for stage in stages:
        check_sources(config.get(stage, {}).get("init_from", ()))
    if "segmentation" in stages:
        for name, arm in config.segmentation.arms.items():
            check_arm(config, name, arm)
    for stage, key, source in (
        ("autoencoder", "autoencoder.lpips", config.autoencoder.lpips),
        ("diffusion", "diffusion.style.weights", config.diffusion.style.weights),
        ("guided", "guided.guide.weights", config.guided.guide.weights),
    ):
        if source and stage in stages:
            source_folder(source, key)
