"""Checks of this machine: Python, libraries, devices, memory and limits."""

import ctypes.util
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from stedm_jax.doctor.findings import Finding, fail, ok, warn

OPEN_FILES = 4096
SHARED_MEMORY = 1e9


def python() -> Finding:
    """Version and word size."""
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11) or sys.maxsize < 2**32:
        return fail(
            "python",
            seen,
            "install a 64-bit Python 3.11 or newer and make a new virtual environment",
        )
    return ok("python", seen)


def libraries() -> Iterator[Finding]:
    """Everything that the package asks for, and whether the versions go together."""
    missing, old, found = [], [], {}
    for line in importlib.metadata.requires("stedm_jax") or ():
        if "extra ==" in line:
            continue
        name, least = _requirement(line)
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if least and _numbers(found[name]) < _numbers(least):
            old.append(f"{name} {found[name]}, needed {least}")
    if missing or old:
        seen = "; ".join([*(f"{name} is missing" for name in missing), *old])
        yield fail("libraries", seen, "pip install -e .   (in the folder of this project)")
    shown = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    yield ok("libraries", ", ".join(f"{name} {found[name]}" for name in shown if name in found))
    jax, jaxlib = found.get("jax", ""), importlib.metadata.version("jaxlib")
    if jax and jax.split(".")[:3] != jaxlib.split(".")[:3]:
        yield fail(
            "jaxlib",
            f"jax {jax} and jaxlib {jaxlib} do not go together",
            f"pip install jax=={jax} jaxlib=={jax}",
        )


def _requirement(line: str) -> tuple[str, str]:
    name = re.match(r"[\w.\-]+", line)
    least = re.search(r">=\s*([\w.]+)", line)
    return (name[0] if name else line), (least[1] if least else "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def openslide() -> Finding:
    """Whether slides can be read at all."""
    try:
        import openslide as library

        return ok(
            "openslide", f"{library.__library_version__}, openslide-python {library.__version__}"
        )
    except (ImportError, OSError) as error:
        hint = "pip install openslide-python openslide-bin"
        if ctypes.util.find_library("openslide") is None and platform.system() != "Linux":
            hint += ", or install OpenSlide with the package manager of the system"
        return fail("openslide", f"does not load ({error})", hint)


def devices() -> Iterator[Finding]:
    """What JAX finds, whether it computes, and accelerators that it does not see."""
    import jax
    import jax.numpy as jnp

    try:
        found = jax.devices()
    except RuntimeError as error:
        text = str(error).strip().splitlines()[0]
        yield fail(
            "devices",
            f"JAX does not start ({text})",
            "unset JAX_PLATFORMS, or install the extra of the device",
        )
        return
    kinds = ", ".join(
        f"{sum(d.device_kind == kind for d in found)} x {kind}"
        for kind in {d.device_kind for d in found}
    )
    limits = [
        (device.memory_stats() or {}).get("bytes_limit", 0)
        for device in found
        if device.platform != "cpu"
    ]
    memory = f", {min(limits) / 1e9:.1f} GB each" if limits and min(limits) else ""
    wrong = [str(each) for each in jax.local_devices() if not _computes(each, jnp)]
    if wrong:
        yield fail(
            "devices",
            f"{', '.join(wrong)} computes wrongly",
            "restart the machine, or leave that device out",
        )
    unseen = _unseen(found[0].platform)
    if unseen:
        yield warn("devices", f"{kinds}{memory}, but {unseen[0]}", unseen[1])
    else:
        yield ok("devices", f"{kinds}{memory}")


def _computes(device: object, jnp: object) -> bool:
    import jax

    x = jax.device_put(jax.numpy.arange(1024, dtype=jax.numpy.float32), device)
    return float((x * 2.0).sum()) == 1023.0 * 1024.0


def _unseen(platform_name: str) -> tuple[str, str] | None:
    if platform_name != "cpu":
        return None
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return None  # the user says so
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        return (
            "there is an NVIDIA card that JAX does not use",
            "pip install -e '.[cuda]', and a driver that goes with it",
        )
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return "there seems to be a TPU that JAX does not use", "pip install -e '.[tpu]'"
    return None


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process may still use: the machine's, or those of its control group."""
    text = (root / "proc/meminfo").read_text()
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    free = float(found[1]) * 1024 if found else 0.0
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            free = min(free, float((root / limit).read_text()) - float((root / used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return free


def memory(cache_mb: int = 0) -> Finding:
    """Memory that is left, against the cache of decoded tiles."""
    try:
        free = available_memory()
    except OSError:
        return ok("memory", "not told by this system")
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    seen = f"{free / 1e9:.1f} GB to be had, {cores} cores"
    if cache_mb * 1e6 > 0.5 * free:
        seen += f", but data.cache_mb asks for {cache_mb / 1000:.1f} GB of decoded tiles"
        return warn(
            "memory", seen, f"--config.data.cache_mb={int(free / 4e6)}, or a machine with more"
        )
    if free < 3e9:
        return warn("memory", seen, "end other programs: the demo needs 2 GB, full size more")
    return ok("memory", seen)


def shared_memory(path: str = "/dev/shm") -> Finding:
    """What worker processes and collectives between processes of a machine share."""
    if not os.path.isdir(path):
        return warn("shared memory", f"{path} is not there", "in a container: --shm-size=8g")
    size = shutil.disk_usage(path).free
    if size < SHARED_MEMORY:
        return warn(
            "shared memory", f"{path} has {size / 1e6:.0f} MB", "in a container: --shm-size=8g"
        )
    return ok("shared memory", f"{path} has {size / 1e9:.1f} GB")


def open_files() -> Finding:
    """The limit of open files; shards, threads and sockets each take some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = f"{soft:,} may be open" if soft != resource.RLIM_INFINITY else "no limit"
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else hard
        return warn("open files", seen, f"ulimit -n {OPEN_FILES * 4} (at most {most} here)")
    return ok("open files", seen)
