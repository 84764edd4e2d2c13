"""Checks of this machine: Python, libraries, devices, memory and limits."""

import ctypes.util
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from stedm_jax.common.processors import cores
from stedm_jax.doctor.findings import Finding, fail, ok, warn

OPEN_FILES = 4096
SHARED_MEMORY = 1e9
SHOWN = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def python() -> Finding:
    """Version and word size."""
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11) or sys.maxsize < 2**32:
        return fail(seen, "install a 64-bit Python 3.11 or newer in a new virtual environment")
    return ok(seen)


def libraries() -> Iterator[Finding]:
    """Everything that the package requires, in versions that it can work with."""
    wrong, found = [], {}
    for each in map(Requirement, importlib.metadata.requires("stedm_jax") or ()):
        if each.marker and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            found[each.name] = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(found[each.name], prereleases=True):
            wrong.append(f"{each.name} {found[each.name]}, needed {each.specifier}")
    if wrong:
        yield fail("; ".join(wrong), "pip install -e .   (in the folder of this project)")
    yield ok(", ".join(f"{name} {found[name]}" for name in SHOWN if name in found))


def openslide() -> Finding:
    """Whether slides can be read at all."""
    try:
        import openslide as library

        return ok(f"{library.__library_version__}, openslide-python {library.__version__}")
    except (ImportError, OSError) as error:
        fix = "pip install openslide-python openslide-bin"
        if ctypes.util.find_library("openslide") is None and platform.system() != "Linux":
            fix += ", or install OpenSlide with the package manager of the system"
        return fail(f"does not load ({error})", fix)


def devices() -> Finding:
    """What JAX finds, whether it computes, and accelerators that it does not see."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:
        seen = f"JAX does not start ({str(error).strip().splitlines()[0]})"
        return fail(seen, "unset JAX_PLATFORMS, or install the extra of the device")
    kinds = Counter(device.device_kind for device in found)
    seen = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    stats = [device.memory_stats() or {} for device in found if device.platform != "cpu"]
    limit = min((each.get("bytes_limit", 0) for each in stats), default=0)
    if limit:
        seen += f", {limit / 1e9:.1f} GB each"
    wrong = [str(device) for device in jax.local_devices() if not _computes(device)]
    if wrong:
        seen = f"{', '.join(wrong)} computes wrong results"
        return fail(seen, "restart the machine, or leave that device out")
    unused, fix = _unused() if found[0].platform == "cpu" else ("", "")
    return warn(f"{seen}, but {unused}", fix) if unused else ok(seen)


def _computes(device: object) -> bool:
    import jax

    x = jax.device_put(jax.numpy.arange(1024, dtype=jax.numpy.float32), device)
    return float((x * 2.0).sum()) == 1023.0 * 1024.0


def _unused() -> tuple[str, str]:
    """An accelerator that JAX does not see, and what to install."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return "", ""  # as the user wants it
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        fix = "pip install -e '.[cuda]', and a driver that goes with it"
        return "there is an NVIDIA card that JAX does not use", fix
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return "there seems to be a TPU that JAX does not use", "pip install -e '.[tpu]'"
    return "", ""


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process may still use: of the machine, or of its control group."""
    text = (root / "proc/meminfo").read_text()
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    free = float(found[1]) * 1024 if found else 0.0
    version_1 = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"
    for limit, used in (("memory.max", "memory.current"), version_1):
        group = root / "sys/fs/cgroup"
        try:
            free = min(free, float((group / limit).read_text()) - float((group / used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return free


def memory(cache_mb: int = 0) -> Finding:
    """Memory that is left, against the cache of decoded tiles."""
    try:
        free = available_memory()
    except OSError:
        return ok("unknown on this system")
    seen = f"{free / 1e9:.1f} GB available, {cores()} cores"
    if cache_mb * 1e6 > 0.5 * free:
        seen += f", but data.cache_mb asks for {cache_mb / 1000:.1f} GB of decoded tiles"
        return warn(seen, f"--config.data.cache_mb={int(free / 4e6)}, or a machine with more")
    if free < 3e9:
        return warn(seen, "end other programs: the demo needs 2 GB, full size more")
    return ok(seen)


def shared_memory(path: str = "/dev/shm") -> Finding:
    """What worker processes and collectives between processes of a machine share."""
    size = shutil.disk_usage(path).free if os.path.isdir(path) else 0
    if size < SHARED_MEMORY:
        seen = f"{path} has {size / 1e6:.0f} MB" if size else f"{path} is not there"
        return warn(seen, "in a container: --shm-size=8g")
    return ok(f"{path} has {size / 1e9:.1f} GB")


def open_files() -> Finding:
    """The limit on open files; shards, threads and sockets each take some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("no limit")
    seen = f"{soft:,} may be open"
    if soft < OPEN_FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else hard
        return warn(seen, f"ulimit -n {OPEN_FILES * 4} (at most {most} here)")
    return ok(seen)
