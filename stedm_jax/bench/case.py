"""What is measured: the networks and sizes of a configuration, at the paper's size or tiny, on one
kind of device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.models.build import build_unet
from stedm_jax.models.functional import Functional
from stedm_jax.stages.run import DTYPES, Run
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.training.sharding import check_batch, make_mesh
from stedm_jax.workdir import Workdir

SIZES = ("full", "tiny")
BATCH = {"cpu": 1}
OTHER_BATCH = 8  # of an accelerator
COLORS = ((230, 230, 230), (200, 30, 30))


@dataclass(frozen=True)
class Case:
    """Attributes: config, changed to the size; batch, over all devices; dtype of the computation;
    mesh."""

    config: Any
    batch: int
    dtype: str
    mesh: Mesh

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def run(self) -> Run:
        """The run that the stages would make of the configuration; of its workdir nothing is
        read."""
        return Run(self.config, Workdir(Path()), self.mesh)

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.config.autoencoder.model.latent_channels

    @property
    def side(self) -> int:
        """Of a latent."""
        return (
            self.config.data.tile // AutoencoderTask(self.config.autoencoder, self.run.dtype).factor
        )

    @property
    def style_dim(self) -> int:
        """Length of the style vector, 0 for none."""
        style = self.config.diffusion.style
        return 0 if "none" in (style.source, style.aggregation) else style.dim

    @property
    def unet(self) -> Functional:
        """The denoiser."""
        if self.config.diffusion.unet.style_path == "cross" and self.style_dim:
            raise UserError(
                "The bench gives the denoiser a style vector, and the config has diffusion.unet.style_path = 'cross', "
                "which reads tokens; set --config.diffusion.unet.style_path=middle and "
                "--config.diffusion.style.aggregation=mean, or measure --what=task."
            )
        return build_unet(
            self.config.diffusion.unet,
            in_channels=self.channels + self.config.diffusion.layout_channels,
            out_channels=self.channels,
            style_dim=self.style_dim,
            dtype=self.run.dtype,
        )

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """float32 x (b, h, w, c), style (b, d), target (b, h, w, 3) and float32 t (b,), the same
        each time."""
        rng, side = np.random.default_rng(0), self.side
        stacked = self.channels + self.config.diffusion.layout_channels
        normal = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
        inputs = {
            "x": normal(batch, side, side, stacked),
            "target": normal(batch, side, side, self.channels),
            "t": rng.integers(0, self.config.diffusion.schedule.steps, batch).astype(np.float32),
        }
        return inputs | ({"style": normal(batch, self.style_dim)} if self.style_dim else {})


def make_case(config: Any, size: str, batch: int, dtype: str, device: str) -> Case:
    """Reads the options; `batch` 0 and `dtype`, `device` "" stand for what suits the device.

    Raises:
      UserError: there is no such device, size or dtype, or the batch does not divide over the
        devices.
    """
    if size not in SIZES:
        raise UserError(f"--size={size} is unknown; give one of {', '.join(SIZES)}.")
    if dtype and dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} is unknown; give one of {', '.join(DTYPES)}.")
    devices = _devices(device)
    jax.config.update("jax_default_device", devices[0])
    platform = devices[0].platform
    count = config.mesh.cpu_devices or 1 if platform == "cpu" else 1
    mesh = make_mesh(-1, 1, devices[:count])
    if size == "tiny":
        shrink(config)
    config.dtype = dtype or ("float32" if platform == "cpu" else "bfloat16")
    config.diffusion.train.batch = batch = batch or BATCH.get(platform, OTHER_BATCH) * mesh.size
    check_batch(batch, mesh)
    return Case(config, batch, config.dtype, mesh)


def shrink(config: Any) -> None:
    """The same kind of network, small enough to be compiled in seconds; changes in place."""
    config.data.tile = 64
    config.autoencoder.model.update(
        {"channels": 16, "multipliers": (1, 2, 2), "res_blocks": 1, "codes": 16}
    )
    config.diffusion.unet.update({"base": 32, "multipliers": (1, 2), "res_blocks": 1, "heads": 4})
    config.diffusion.style.update({"encoder": "conv", "width": 8, "dim": 32, "tiles": 2})


def random_params(abstract: Any, seed: int = 0) -> Any:
    """float32 parameters of these shapes on the host, none of them zero, so that every layer shows
    in the output."""
    rng = np.random.default_rng(seed)

    def leaf(path: Any, like: Any) -> np.ndarray:
        if len(like.shape) < 2:
            around = 1.0 if path[-1].key == "scale" else 0.0
            return (around + 0.1 * rng.standard_normal(like.shape)).astype(np.float32)
        reach = np.float32(np.prod(like.shape[:-1]) ** -0.5)
        return (2 * rng.random(like.shape, np.float32) - 1) * reach

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def _devices(name: str) -> list[Any]:
    try:
        return jax.devices(name) if name else jax.devices()
    except RuntimeError as error:
        raise UserError(
            f"--device={name}: JAX has no such device here ({str(error).splitlines()[0][:200]}). It has "
            f"{', '.join(sorted({each.platform for each in jax.devices()}))}; pip install -e '.[cuda]' or '.[tpu]' "
            "brings the JAX of an accelerator."
        ) from error
