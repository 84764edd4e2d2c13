"""What is measured: the networks and sizes of a configuration, at the paper's size or tiny, on one
kind of device."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.context import DTYPES
from stedm_jax.models.functional import Functional, Params
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.root import Settings
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.tasks.build import build_autoencoder, build_generator
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.training.sharding import check_batch, make_mesh

ACCELERATOR_BATCH = 8
COLORS = ((230, 230, 230), (200, 30, 30))


@dataclass(frozen=True)
class Case:
    """The first generator and the first set of an experiment, on a mesh.

    Attributes:
      settings: of the size that is measured.
      mesh: of devices of one kind.
    """

    settings: Settings
    mesh: Mesh

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def batch(self) -> int:
        """Images, over all devices."""
        return self.settings.diffusion.train.batch

    @property
    def diffusion(self) -> Diffusion:
        """Of the generator."""
        return self.settings.generator(next(iter(self.settings.diffusion.generators)))

    @property
    def synthesis(self) -> Synthesis:
        """Of the set."""
        return self.settings.synthesis_set(next(iter(self.settings.synthesis.sets)))

    @cached_property
    def task(self) -> DiffusionTask:
        """The task of the generator."""
        dtype = DTYPES[self.settings.dtype]
        first = build_autoencoder(self.settings, dtype)
        name = next(iter(self.settings.diffusion.generators))
        return build_generator(self.settings, name, first, COLORS, dtype)

    @property
    def style_dim(self) -> int:
        """Length of the style vector, 0 for none."""
        style = self.diffusion.style
        return style.dim if style.used else 0

    @property
    def unet(self) -> Functional:
        """The denoiser."""
        if self.diffusion.unet.style_path == "cross" and self.style_dim:
            raise UserError(
                "The bench gives the denoiser a style vector, and the config has "
                "diffusion.unet.style_path = 'cross', which reads tokens; set "
                "--config.diffusion.unet.style_path=middle and "
                "--config.diffusion.style.aggregation=mean, or measure --what=task."
            )
        return self.task.unet

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """float32 x (b, h, w, c), style (b, d), target (b, h, w, 3) and float32 t (b,), the same
        each time."""
        rng, channels = np.random.default_rng(0), self.task.channels
        side = self.settings.data.tile // self.task.factor

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal((batch, *shape), np.float32)

        inputs = {
            "x": normal(side, side, channels + self.diffusion.layout_channels),
            "target": normal(side, side, channels),
            "t": rng.integers(0, self.diffusion.schedule.steps, batch).astype(np.float32),
        }
        return inputs | ({"style": normal(self.style_dim)} if self.style_dim else {})


def make_case(settings: Settings, batch: int, dtype: str, device: str) -> Case:
    """Reads the options; `batch` 0 and `dtype`, `device` "" stand for what suits the device.

    Raises:
      UserError: there is no such device, or the batch does not divide over the devices.
    """
    devices = _devices(device)
    jax.config.update("jax_default_device", devices[0])
    cpu = devices[0].platform == "cpu"
    mesh = make_mesh(-1, 1, devices[: settings.mesh.cpu_devices if cpu else 1] or devices[:1])
    batch = batch or mesh.size * (1 if cpu else ACCELERATOR_BATCH)
    check_batch(batch, mesh)
    train = replace(settings.diffusion.train, batch=batch)
    settings = replace(
        settings,
        dtype=dtype or ("float32" if cpu else "bfloat16"),
        diffusion=replace(settings.diffusion, train=train),
    )
    return Case(settings, mesh)


def random_params(abstract: Any) -> Params:
    """float32 parameters of these shapes on the host, none of them zero, so that every layer shows
    in the output."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, like: Any) -> np.ndarray:
        if len(like.shape) < 2:
            around = 1.0 if path[-1].key == "scale" else 0.0
            return (around + 0.1 * rng.standard_normal(like.shape)).astype(np.float32)
        reach = np.float32(np.prod(like.shape[:-1]) ** -0.5)
        return (2 * rng.random(like.shape, np.float32) - 1) * reach

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def _devices(name: str) -> list[Any]:
    try:
        return jax.devices(name or None)
    except RuntimeError as error:
        platforms = ", ".join(sorted({each.platform for each in jax.devices()}))
        raise UserError(
            f"--device={name}: JAX has no such device here ({str(error).splitlines()[0][:200]}). "
            f"It has {platforms}; pip install -e '.[cuda]' or '.[tpu]' brings the JAX of an "
            "accelerator."
        ) from error
