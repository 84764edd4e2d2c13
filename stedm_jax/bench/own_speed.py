"""Measures our programs on a device, against what it reaches with one large matrix product."""

import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from stedm_jax.bench import memory, ours
from stedm_jax.bench.case import Case, random_params
from stedm_jax.bench.ceiling import CPU_SIDE, OTHER_SIDE, ceiling, our_product
from stedm_jax.bench.results import OURS, Part, row_of
from stedm_jax.bench.timing import alternate
from stedm_jax.common.processors import cores
from stedm_jax.common.version import __version__
from stedm_jax.models.functional import Params

TITLES = {
    "train": "train step, denoiser",
    "sampler": "sampler step, guided pair",
    "task": "train step, whole task",
}
Ceiling = tuple[float, float]
"""FLOP/s by wall time and, on a CPU, by processor time (else 0)."""


def on_host(case: Case) -> bool:
    """Whether a CPU does the work."""
    return case.platform == "cpu"


def machine(case: Case, reached: Ceiling) -> dict[str, Any]:
    """What it runs on, and the ceilings."""
    kind = case.mesh.devices.flat[0].device_kind
    return {
        "device": f"{case.mesh.size} x {kind}" + (f" ({_cpu()})" if on_host(case) else ""),
        "cores": cores(),
        "load": os.getloadavg()[0],
        "dtype": case.settings.dtype,
        "batch": case.batch,
        "stedm_jax": __version__,
        "jax": jax.__version__,
        "ceiling_flops": reached[0],
        "ceiling_flops_per_cpu_second": reached[1],
    }


def measure_ceiling(
    case: Case, others: Mapping[str, Callable[[int], Callable[[], None]]] | None = None
) -> Ceiling:
    """The faster of XLA's product and those of `others`, each made for a side of the matrices."""
    side = CPU_SIDE if on_host(case) else OTHER_SIDE
    dtype, device = jnp.dtype(case.settings.dtype), case.mesh.devices.flat[0]
    products = {"xla": our_product(dtype, side, device)}
    products |= {name: make(side) for name, make in (others or {}).items()}
    wall, cpu = ceiling(products, side)
    return (wall, cpu) if on_host(case) else (wall * case.mesh.size, 0.0)


def prepare(case: Case, name: str, params: Params | None = None) -> ours.Ready:
    """A program of TITLES, compiled and run once; `params` of the denoiser, random ones if None."""
    say(f"compiling our {TITLES[name]}")
    if name == "task":
        ready = ours.task_step(case)
    else:
        step = ours.unet_step if name == "train" else ours.sampler_step
        ready = step(case, random_params(case.unet.abstract) if params is None else params)
    ready.call()
    return ready


def own_memory(case: Case, ready: ours.Ready) -> float | None:
    """Bytes that a program holds and the most that a call takes beside them."""
    if not on_host(case):
        return float(ready.held + ready.program)
    ready.call()  # what is made once is there
    risen = memory.growth(ready.call)
    return None if risen is None else ready.held + risen


def measure(case: Case, name: str, seconds: float, reached: Ceiling) -> Part:
    """A program of TITLES, called for so many seconds."""
    ready = prepare(case, name)
    peak = own_memory(case, ready)
    times = alternate({OURS: ready.call}, seconds)[OURS]
    row = row_of(OURS, times, ready.images, ready.flops, reached, peak)
    return Part(TITLES[name], [row], ready.flops)


def say(what: str) -> None:
    """What goes on, on the standard error."""
    print(f"bench: {what} ...", file=sys.stderr, flush=True)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
