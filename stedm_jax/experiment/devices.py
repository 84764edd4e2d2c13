"""The devices of a run."""

import os
from typing import Any

import jax

from stedm_jax.common.errors import UserError
from stedm_jax.common.processors import cores
from stedm_jax.settings.root import Settings
from stedm_jax.training.sharding import make_mesh


def divide_cpu(count: int) -> None:
    """Makes a CPU several devices, so that its cores work on a batch in parallel; other hardware is
    not affected.

    Args:
      count: devices; 0 takes the largest power of two that is not above the number of cores, at
        most 8.

    XLA uses the cores of one CPU device poorly for small networks: two devices on two cores trained
    the networks of the demo about 1.4 times faster. A number given through XLA_FLAGS stands.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    jax.config.update("jax_num_cpu_devices", count or min(8, 2 ** (cores().bit_length() - 1)))


def devices() -> list[Any]:
    """All devices.

    Raises:
      UserError: JAX finds none of the platforms that JAX_PLATFORMS names.
    """
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:
        named = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no device with JAX_PLATFORMS={named or '(not set)'} "
            f"({str(error).strip() or type(error).__name__}). Unset it, or set "
            "JAX_PLATFORMS=cpu; a GPU or TPU needs its driver and pip install -e '.[cuda]' or "
            "'.[tpu]'."
        ) from error


def mesh_of(settings: Settings) -> jax.sharding.Mesh:
    """The mesh that the settings describe, over all devices; errors as `devices`."""
    devices()
    return make_mesh(settings.mesh.data, settings.mesh.fsdp)
