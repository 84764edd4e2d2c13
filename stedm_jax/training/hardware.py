"""What training knows of the machine: memory in use, the peak of a device, a profile of some steps,
and the persistent cache of compiled programs."""

import resource
import sys
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

# Makers' data sheets: dense bfloat16 FLOP/s of one device, by JAX's name for it. The first that
# fits is taken.
PEAKS = (
    ("TPU v6 lite", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA A100", 312e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA L4", 121e12),
)


def peak_flops(kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device of this kind at its best; None where it is not known (a
    CPU)."""
    return next((flops for name, flops in PEAKS if kind.startswith(name)), None)


def memory_used() -> tuple[str, float]:
    """The most bytes that were in use so far, and where: of this host's fullest "device", or, where
    devices do not report it, of the "memory" of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if most := max(each.get("peak_bytes_in_use", 0) for each in stats):
        return "device", float(most)
    unit = 1 if sys.platform == "darwin" else 1024
    return "memory", float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


class Profile:
    """Profiles the steps `window` = (first, last), for TensorBoard or Perfetto; () profiles
    nothing."""

    def __init__(self, folder: Path, window: tuple[int, ...]) -> None:
        self.folder, self.window, self.running = folder, window, False

    def before(self, step: int) -> None:
        """To be called before step number `step` (from 1) begins."""
        if self.window and step == self.window[0] and jax.process_index() == 0:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def ends(self, step: int) -> bool:
        """Whether the profile ends after this step, which has to be waited for first."""
        return self.running and step >= self.window[1]

    def stop(self) -> None:
        """Writes what was recorded, if anything was."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()


def enable_compile_cache(dir: Path | str) -> None:
    """Keeps every compiled program under `dir`. What lies there is trusted: never give a path that
    others can write to."""
    Path(dir).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(dir))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # otherwise a compilation made before this call leaves it off
