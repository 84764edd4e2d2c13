"""Layout- and style-conditioned latent diffusion for histopathology segmentation, in JAX."""

from typing import TYPE_CHECKING, Any

from stedm_jax.common.version import __version__

if TYPE_CHECKING:
    from stedm_jax.interface.loaded_run import load_run

__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Brings `load_run`, and JAX with it, when it is asked for."""
    if name == "load_run":
        from stedm_jax.interface.loaded_run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
