"""An easel of a run whose networks have learned nothing, on tiles of 32 px."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Below
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.studio.easel import Easel
from stedm_jax.synthesize.trained_generator import Generator
from stedm_jax.tasks.build import build_autoencoder, build_generator
from stedm_jax.tasks.latent_diffusion import LatentScale
from stedm_jax.training.sharding import make_mesh
from tests.conftest import make_tile, written
from tests.experiment.settings import tiny

SAMPLING = {"sampler": "unipc_2", "spacing": "linspace"}


def red(images: np.ndarray) -> np.ndarray:
    """Probabilities: what is red is of class 1."""
    share = np.asarray(images)[..., :1].astype(np.float32) / 255
    return np.concatenate([1 - share, share], axis=-1)


def easel_of(folder: Path, **sampling: Any) -> Easel:
    """Two patients a split; the demo's set in `folder`/run."""
    tiles = (
        make_tile(split, f"{split}{number % 2}", number)
        for split in ("train", "val", "test", "style")
        for number in range(16)
    )
    path = written(folder / "tiles", tiles).path
    settings = tiny(path, **{f"synthesis__{k}": v for k, v in (SAMPLING | sampling).items()})
    (folder / "run").mkdir()
    context = Context(settings, Workdir(folder / "run"), make_mesh())
    first = build_autoencoder(settings, jnp.float32)
    scale = LatentScale((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 0.5, 1.0))
    task = build_generator(settings, "stedm", first, context.classes.colors, jnp.float32, scale)
    keys = jax.random.split(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.05, jax.jit(task.init)(keys[0]))
    below = Below(task, {"first": jax.jit(first.network.init)(keys[1])}, {})
    section = settings.synthesis_set("synthetic")
    easel = Easel(Generator(context, "stedm", below, params, section, {"step": "7"}))
    seer = SimpleNamespace(predict=red, task=SimpleNamespace(decide=_most))
    easel.__dict__["segmenter"] = seer
    return easel


def _most(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask = maps.argmax(axis=-1).astype(np.uint8)
    return mask, mask == 1
