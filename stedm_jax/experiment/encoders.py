"""Encoders whose features compare sets of tiles: published ones, and those that a run has learned.

A source is what init_from takes: the folder of a cell (a judge or a segmenter: its encoder; a
generator: its style encoder, each tile a style of its own), a converted folder, or a name of the
registry (inception-fid, a ViT).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.counted import best_of
from stedm_jax.experiment.init_weights import load_weights, source_folder
from stedm_jax.experiment.learn import restore
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.pinned import identify
from stedm_jax.experiment.saved import open_run
from stedm_jax.models.blocks import Tokens
from stedm_jax.models.lpips import SMALLEST
from stedm_jax.models.published_sizes import PUBLISHED, build_published
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.tasks.build import Shown, build_segmenter
from stedm_jax.tasks.images import to_network
from stedm_jax.training.sharding import batch_sharding, make_mesh, replicated, to_host
from stedm_jax.training.weights_folder import INFO, is_converted, load_folder

INCEPTION, LPIPS = "inception-fid", "lpips-alex"
TAKEN = ("inception:", "vit:")


@dataclass(frozen=True)
class Encoder:
    """A network that makes a vector of an image.

    Attributes:
      name: for tables.
      identity: checksum of its weights.
      params: in the memory of the host, or on its devices.
      embed: (params, images) to features (b, d), float32; traceable.
    """

    name: str
    identity: str
    params: Any
    embed: Callable[[Any, UInt8[Array, "b h w 3"]], Float[Array, "b d"]]


def open_encoder(source: str, key: str) -> Encoder:
    """The encoder of a source; `key` names it in errors.

    Raises:
      UserError: no such source, or one that makes no vector of an image.
    """
    folder = source_folder(source, key)
    if is_converted(folder):
        return _published(folder, source, key)
    context, cell = open_cell(folder, key)
    return cell_encoder(context, cell, key)


def run_above(path: Path) -> Path | None:
    """The workdir that a folder lies in; None if it lies in none."""
    path = path.resolve()
    return next((each for each in path.parents if (each / "config.json").is_file()), None)


def open_cell(folder: Path, key: str) -> tuple[Context, Cell]:
    """The run at the point of the cell that a folder is, and that cell.

    Raises:
      UserError: it is none, or the run is not configured for it any more.
    """
    run = run_above(folder)
    if run is None:
        raise UserError(f"{key} names {folder}, which lies in no workdir of a run.")
    context = open_run(run)
    name, cells = str(folder.resolve().relative_to(run.resolve())), Graph(context.settings).cells
    if name not in cells:
        raise UserError(f"{key} names {folder}, but {run} has no cell '{name}'.")
    return context.at(cells[name].point), cells[name]


def cell_encoder(context: Context, cell: Cell, key: str) -> Encoder:
    """The encoder of a judge, a segmenter or a generator.

    Raises:
      UserError: another cell, or a network without an encoder.
    """
    if cell.stage == "generator":
        task, below, params = _generator(context, cell)
        if not task.styled:
            raise UserError(f"{key} names {cell.name}, a generator without a style encoder.")
        frozen = {"guide": below.frozen["guide"]} if "guide" in below.frozen else {}
        both = {"own": {"style": params["style"]}, "frozen": frozen}
        params = to_host(both, context.mesh)
        return Encoder(
            f"style encoder of {cell.name}", _digest(params), params, partial(_style, task)
        )
    if cell.stage not in (JUDGE, "segmentation"):
        raise UserError(
            f"{key} names {cell.name}; features come from a judge, a segmenter or a generator."
        )
    task, params = segmenter(context, cell, key)
    params = to_host(params, context.mesh)
    return Encoder(f"encoder of {cell.name}", _digest(params), params, partial(_maps, task))


def segmenter(context: Context, cell: Cell, key: str) -> tuple[Any, Any]:
    """Task and parameters of a judge or of an arm.

    Raises:
      UserError: an arm without a network of its own with an encoder.
    """
    arm = cell.variant.rpartition("/")[0] or JUDGE
    entry, section = context.settings.arm_entry(arm), context.settings.arm(arm)
    if entry.is_head or section.model.kind != "unet":
        raise UserError(f"{key} names {cell.name}, whose network is no smp.Unet with an encoder.")
    classes = context.classes
    shown = Shown(classes.colors, classes.foreground, context.settings.data.tile)
    task = build_segmenter(context.settings, arm, shown, 1, context.dtype)
    return task, restore(context, task, cell.name, best=best_of(section))[0]


def lpips(source: str, key: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS of pairs of uint8 images; smaller ones than it can read are doubled.

    Raises:
      UserError: no such weights.
    """
    network = build_published(LPIPS)
    params = load_weights(network.abstract, source, key)

    @jax.jit
    def distance(x: Array, y: Array) -> Array:
        times = -(-SMALLEST // min(x.shape[1:3]))
        larger = (jnp.repeat(jnp.repeat(to_network(each), times, 1), times, 2) for each in (x, y))
        return network.apply(params, *larger)

    return lambda x, y: np.asarray(distance(x, y))


def encode(
    encoder: Encoder, batches: Callable[[slice], UInt8[np.ndarray, "b h w 3"]], count: int
) -> np.ndarray:
    """Features of `count` images, in batches over the devices of this process.

    Args:
      batches: reads the images of some numbers.
    """
    mesh = make_mesh(devices=jax.local_devices())
    size = 32 * mesh.size
    params = jax.device_put(encoder.params, replicated(mesh))
    embed = jax.jit(encoder.embed, out_shardings=batch_sharding(mesh))
    found = []
    for start in range(0, count, size):
        images = batches(slice(start, min(start + size, count)))
        filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        found.append(np.asarray(embed(params, filled), np.float32)[: len(images)])
    return np.concatenate(found)


def _published(folder: Path, source: str, key: str) -> Encoder:
    info = load_folder(folder)[1]
    name = str(info.get("network", ""))
    path = PUBLISHED.get(name, {}).get("network", "")
    if not path.startswith(TAKEN):
        known = [each for each in PUBLISHED if PUBLISHED[each]["network"].startswith(TAKEN)]
        raise UserError(
            f"{key} names '{source}', which holds '{name}' ({INFO}), no network that makes a "
            f"vector of an image; such are {', '.join(known)}, and cells of runs."
        )
    network = build_published(name)
    side = PUBLISHED[name]["rows"][0]["inputs"][0][1]
    params = load_weights(network.abstract, str(folder), key)
    identity = identify(str(folder), key).sha256
    return Encoder(name, identity, params, partial(_resized, network, side))


def _resized(network: Any, side: int, params: Any, images: Array) -> Array:
    """Features at the published size; smaller images are enlarged linearly."""
    x = to_network(images)
    if x.shape[1] != side:
        x = jax.image.resize(x, (len(x), side, side, 3), "linear", antialias=True)
    return network.apply(params, x).astype(jnp.float32)


def _generator(context: Context, cell: Cell) -> tuple[Any, Any, Any]:
    below = Learned(context).denoiser(cell.variant)
    averaged = context.settings.generator(cell.variant).train.ema.decay
    which = "ema" if averaged else "params"
    return below.task, below, restore(context, below.task, cell.name, which=which)[0]


def _style(task: Any, params: Any, images: Array) -> Array:
    found = task.style_vector(params["own"], params["frozen"], to_network(images)[:, None])
    return found.values.mean(1) if isinstance(found, Tokens) else found


def _maps(task: Any, params: Any, images: Array) -> Array:
    return task.network.apply(params, to_network(images), method="embed")


def _digest(params: Any) -> str:
    digest = hashlib.sha256()
    for array in jax.tree.leaves(params):
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()
