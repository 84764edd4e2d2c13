"""A tiny run that was never trained: random weights in the form that trainings leave them."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs.demo import get_config
from stedm_jax.experiment.workdir import FORMAT
from stedm_jax.interface.loaded_run import Run, load_run
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.load import read_settings
from stedm_jax.settings.root import Settings
from stedm_jax.tasks.build import Shown, build_autoencoder, build_generator, build_segmenter
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.state import TrainState
from tests.conftest import CLASSES, make_tile, written

COLORS = tuple(each.color for each in CLASSES)


def small(tiles: Path) -> Any:
    """Settings of a run on 32 px tiles."""
    config = get_config("tiny")
    config.data.update(
        {"tiles": str(tiles), "prepare": (), "tile": 32, "groups": (), "foreground": ()}
    )
    config.autoencoder.model.update({"channels": 4, "multipliers": (1, 1, 1)})
    config.diffusion.unet.update({"base": 8, "multipliers": (1, 1), "heads": 2})
    config.diffusion.style.update({"width": 4, "dim": 8})
    model = config.segmentation.model
    model.update({"widths": (4, 8), "depths": (1, 1), "heads": (1, 1), "reductions": (2, 1)})
    config.segmentation.model.decoder = (8, 8, 4)
    return config


def save(folder: Path, task: Any, seed: int) -> None:
    """A checkpoint with random parameters; their moving average is others."""
    rng = np.random.default_rng(seed)

    def numbers(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("bias"):
            return np.zeros(shape, np.float32)
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1
        return rng.normal(len(shape) == 1, fan_in**-0.5, shape).astype(np.float32)

    abstract = named(jax.eval_shape(task.init, jax.random.key(0)))
    params, ema = (
        nested({path: numbers(path, leaf.shape) for path, leaf in abstract.items()})
        for _ in range(2)
    )
    store = Checkpoints(folder / "checkpoints")
    state = TrainState(step=np.int32(3), params=params, ema=ema, opt_state={"n": np.ones(1)})
    store.save(3, state)
    store.close()
    (folder / "done.json").write_text("{}")


def save_run(folder: Path, settings: Settings) -> None:
    """The cells of a run."""
    first = build_autoencoder(settings, np.float32)
    save(folder / "autoencoder", first, 1)
    save(
        folder / "generator/stedm", build_generator(settings, "stedm", first, COLORS, np.float32), 2
    )
    for seed, arm in enumerate(("labelled", "labelled+synthetic")):
        cell = folder / f"segmentation/{arm}/0"
        save(cell, build_segmenter(settings, arm, Shown(COLORS), 1, np.float32), 3 + seed)
        confusion = {"test": {"test0": [[1, 0], [0, 1]]}}
        (cell / "scores.json").write_text(
            json.dumps({"arm": arm, "seed": 0, "confusion": confusion})
        )
    (folder / "latents").mkdir()
    scale = {"shift": [0.1] * first.channels, "scale": [2.0] * first.channels}
    (folder / "latents/done.json").write_text(json.dumps(scale))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiles` and a run `runs/demo`."""
    root = tmp_path_factory.mktemp("place")
    splits = ("train", "val", "test", "style")
    made = [make_tile(split, f"{split}{n % 2}", n) for split in splits for n in range(6)]
    written(root / "tiles", made)
    config, folder = small(root / "tiles"), root / "runs/demo"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(flatten(config) | {"format": FORMAT}))
    about = {"classes": [each.name for each in CLASSES], "colors": COLORS, "foreground": [1]}
    about |= {"mpp": 2.0, "tile": 32, "stain": None, "learnt": {"segmentation": ["train0"]}}
    (folder / "segmenters.json").write_text(json.dumps(about))
    save_run(folder, read_settings(config))
    return root


@pytest.fixture(scope="session")
def run(place: Path) -> Run:
    """The run, loaded."""
    return load_run(place / "runs/demo")


def layouts_and_styles() -> tuple[np.ndarray, np.ndarray]:
    """Two masks, and style tiles of a patient."""
    tiles = [make_tile("style", "style0", n) for n in range(4)]
    masks = np.stack([make_tile(x=n).mask for n in (1, 3)])
    return masks, np.stack([tile.image for tile in tiles])


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """Larger than a tile, and no multiple of anything."""
    coarse = np.random.default_rng(0).integers(0, 256, (7, 6, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:50, :45]
