"""The persistent cache of compiled programs."""

from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def enable_compile_cache(dir: Path | str) -> None:
    """Keeps every compiled program under `dir`, which is trusted: never give a path others can
    write to."""
    Path(dir).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(dir))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # otherwise a compilation made before this call leaves it off
