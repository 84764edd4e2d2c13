"""Stage plan: what would be run, how large the networks are and what it would cost; runs
nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from stedm_jax.data.arrays import StoreSpec
from stedm_jax.data.classes import ClassMap
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import is_remote, read_manifest
from stedm_jax.data.schema import SPLITS, SYNTHETIC
from stedm_jax.diffusion.samplers import timesteps
from stedm_jax.models.flops import forward_flops
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.stages import guide, guided_cache, latents
from stedm_jax.stages.arms import is_head, reads_around, settings
from stedm_jax.stages.run import check_classes, check_tiles
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.contour import segmentation_task
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.tasks.features import Features
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.pixel_head import DENOISER, HEAD, PixelHeadTask
from stedm_jax.tasks.ssl import SslTask
from stedm_jax.workdir import Workdir

TRAINING = 3.0
"""Forward and backward cost of a training step, in forwards."""


@dataclass(frozen=True)
class Line:
    """A stage: what it does, and its parts: network, parameters, FLOPs of a forward of one image,
    of the stage."""

    stage: str
    what: str
    networks: tuple[tuple[str, int, float], ...]
    total: float


def print_plan(config: Any, workdir: Workdir) -> None:
    """Prints the stages with parameter counts and FLOPs (a multiplication with its addition is
    two)."""
    tiles = _tiles(config, workdir)
    classes = check_classes(tiles, config)
    print(f"{config.name}: plan for the workdir {workdir.path}")
    if tiles:
        records = tiles.manifest["records"]
        counts = ", ".join(
            f"{split} {records[split]}" for split in (*SPLITS, SYNTHETIC) if split in records
        )
        print(f"data          {workdir.fill(config.data.tiles)}: tiles {counts}")
    elif config.data.prepare:
        for command in config.data.prepare:
            print(f"data          python -m {workdir.fill(command)}")
    else:
        print(f"data          {config.data.tiles or '(none)'} is not there. {config.data.missing}")
    total = 0.0
    for line in _lines(config, classes, tiles.manifest["records"] if tiles else {}):
        if line.stage in config.stages:
            total += line.total
            done = " (done)" if workdir.result(line.stage) else ""
            print(f"{line.stage:<14}{line.what}; {_flops(line.total)}{done}")
            for name, parameters, forward in line.networks:
                print(
                    f"{'':<14}  {name}: {parameters / 1e6:,.2f} M parameters, {_flops(forward)} an image forward"
                )
    hours = [
        f"{total / speed / 3600:,.2g} h at {speed / 1e12:g} TFLOP/s" for speed in (1e11, 1e13, 3e14)
    ]
    print(f"in all        {_flops(total)}: {', '.join(hours)} kept up")


def _tiles(config: Any, workdir: Workdir) -> TileSet | None:
    """The tile set, if there is one; of a remote one, only what its manifest says."""
    place = workdir.fill(config.data.tiles)
    if is_remote(place):
        tiles = TileSet(Path(place), read_manifest(place), {})
    elif place and (Path(place) / "manifest.json").exists():
        tiles = TileSet.open(place)
    else:
        return None
    check_tiles(tiles, config.data)
    return tiles


def _flops(number: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number / 1e6:,.3g} MFLOP"


def _cost(network: Functional, *args: Any, method: str = "__call__") -> float:
    return forward_flops(lambda p, *a: network.apply(p, *a, method=method), network.abstract, *args)


def _image(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _cache(spec: StoreSpec) -> str:
    """Bytes of a view, views of each split, and where the tiles are there, those of all."""
    views = ", ".join(f"{split} x {count}" for split, count in spec.views.items())
    told = f"cache of {spec.record_bytes / 1e3:,.0f} kB a view ({views})"
    return told + (f", {spec.records:,} views, {spec.size / 1e9:,.2f} GB" if spec.tiles else "")


def _latents(
    config: Any, task: AutoencoderTask, records: Mapping[str, int], encoder: float
) -> Line:
    """Measuring the scale, and what the cache encodes."""
    tiles = 0 if config.latents.scale else config.latents.tiles
    what = f"scale measured on {tiles:,} tiles" if tiles else f"scale {config.latents.scale:g}"
    if not config.latents.cache:
        return Line("latents", what, (), tiles * encoder)
    spec, images = (
        latents.plan(config, task, records, {}),
        config.diffusion.train.steps * config.diffusion.train.batch,
    )
    what += f"; {_cache(spec)}"
    if records:
        what += f"; training without it encodes {images:,} images"
    return Line("latents", what, (), (tiles + spec.records) * encoder)


def _lines(config: Any, classes: ClassMap, records: Mapping[str, int]) -> Iterator[Line]:
    side = config.data.tile
    channels = config.autoencoder.model.latent_channels
    first = AutoencoderTask(config.autoencoder, jnp.float32)
    task = DiffusionTask(
        config.diffusion,
        first,
        LatentScale((0.0,) * channels, (1.0,) * channels),
        classes.colors,
        jnp.float32,
    )
    small = side // task.factor
    encoder = _cost(first.network, _image(1, side, side, 3), method="encode")
    decoder = _cost(first.network, _image(1, small, small, task.channels), method="decode")
    size = param_count(first.network.abstract)
    images = config.autoencoder.train.steps * config.autoencoder.train.batch
    learnt = ((config.autoencoder.crop or side) / side) ** 2  # share of a tile that a step sees
    what = f"{images:,} images in {config.autoencoder.train.steps:,} steps"
    yield Line(
        "autoencoder",
        what if images else f"{', '.join(config.autoencoder.init_from)} as it is",
        (("autoencoder", size, encoder + decoder),),
        TRAINING * images * learnt * (encoder + decoder),
    )
    yield _latents(config, first, records, encoder)
    if "ssl" in config.stages:
        yield _ssl(config)
    yield from _diffusion(config, task, small, encoder, decoder)
    if "guided" in config.stages:
        yield _guided(config, first, encoder, records)
    yield _segmentation(config, classes, first)


def guided_task(config: Any, first: AutoencoderTask) -> tuple[GuidedTask, Any]:
    """The task, and what is frozen below it."""
    channels, encoder = config.autoencoder.model.latent_channels, guide.build(config, jnp.float32)
    network, width = (encoder.network, encoder.size.embedding_dim) if encoder else (None, 0)
    scale = LatentScale((0.0,) * channels, (1.0,) * channels)
    frozen = {"first": first.network.abstract} | ({"guide": network.abstract} if network else {})
    return GuidedTask(config.guided, first, scale, network, width, jnp.float32), frozen


def _guided(
    config: Any, first: AutoencoderTask, encoder: float, records: Mapping[str, int]
) -> Line:
    """The denoiser; its guide and the encoder are run for each image, or with a cache once for each
    view."""
    task, frozen = guided_task(config, first)
    side, train = config.data.tile, config.guided.train
    small = side // task.factor
    embeddings = {
        name: jax.ShapeDtypeStruct((1, width), jnp.float32) for name, width in task.widths.items()
    }
    inputs = (
        _image(1, small, small, task.channels),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        embeddings or None,
    )
    forward = _cost(task.network, *inputs)
    networks, below = [("denoiser", param_count(task.network.abstract), forward)], encoder
    if task.guide is not None:
        embedding = _cost(task.guide, _image(1, side, side, 3))
        networks.append(("guide", param_count(task.guide.abstract), embedding))
        below += embedding * (len(task.widths) - bool(task.absent))
    images = train.steps * train.batch
    what = (
        f"{images:,} images in {train.steps:,} steps"
        if images
        else f"{', '.join(config.guided.init_from)} as it is"
    )
    if config.guided.cache:
        spec = guided_cache.plan(config, task, frozen, records, {})
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
        made = forward_flops(guided_cache.describe(config, task), frozen, image)
        what += f"; {_cache(spec)}"
        return Line(
            "guided", what, tuple(networks), images * TRAINING * forward + spec.records * made
        )
    return Line("guided", what, tuple(networks), images * (TRAINING * forward + below))


def _segmentation(config: Any, classes: ClassMap, first: AutoencoderTask) -> Line:
    """Every arm, each network by its own cost; what is frozen below a head is run forward only."""
    section = config.segmentation
    images, seeds = section.train.steps * section.train.batch, len(section.seeds)
    kinds: dict[tuple[str, int, float], list[str]] = {}
    judged = {JUDGE: section.judge} if "synthesis" in config.stages else {}
    total = 0.0
    for name, arm in [*section.arms.items(), *judged.items()]:
        size, forward, frozen = _arm(config, classes, first, name, arm)
        kinds.setdefault((arm.get("network", "segmenter"), size, forward), []).append(name)
        total += images * (1 if name == JUDGE else seeds) * (TRAINING * (forward - frozen) + frozen)
    what = f"{len(section.arms) * seeds + len(judged)} trainings of {images:,} images"
    labels = [label for label, _, _ in kinds]
    networks = (  # arms whose changes make other networks of one name are told apart by their own
        (label if labels.count(label) == 1 else f"{label} ({', '.join(names)})", size, forward)
        for (label, size, forward), names in kinds.items()
    )
    return Line("segmentation", what, tuple(networks), total)


def _arm(
    config: Any, classes: ClassMap, first: AutoencoderTask, name: str, arm: Any
) -> tuple[int, float, float]:
    """Trained parameters of an arm, FLOPs of a forward of one image, and those of its frozen
    part."""
    mine, side = settings(config.segmentation, name, arm), config.data.tile
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    shared = (classes.colors, classes.foreground, 1, jnp.float32)
    if not is_head(arm):
        task = segmentation_task(mine, *shared)
        params = task.network.abstract
        return param_count(params), forward_flops(task.maps, params, {}, image), 0.0
    denoiser, frozen = guided_task(config, first)
    encoder = guide.build(config, jnp.float32)
    task = PixelHeadTask(
        mine, *shared, Features(mine.features, denoiser, side, encoder.size.width if encoder else 0)
    )
    below = denoiser.network.abstract
    params = {HEAD: task.network.abstract} | (below if task.tunes else {})
    batch = {"image": image} | ({"region": image} if reads_around(config, mine, arm) else {})
    forward = forward_flops(
        lambda *args: task.logits(*args)[0], params, frozen | {DENOISER: below}, batch
    )
    cost = 0.0 if task.tunes else forward_flops(task.features, below, frozen, batch)
    return param_count(params), forward, cost


def _ssl(config: Any) -> Line:
    crops, train = config.ssl.crops, config.ssl.train
    task = SslTask(config.ssl, jnp.float32)
    head = _cost(task.head, jax.ShapeDtypeStruct((1, task.size.embedding_dim), jnp.float32))
    sides = (crops.global_size, crops.local_size)
    big, small = (_cost(task.network, _image(1, side, side, 3)) + head for side in sides)
    networks = (
        ("encoder", param_count(task.network.abstract), big - head),
        ("head", param_count(task.head.abstract), head),
    )
    images = train.steps * train.batch
    return Line(
        "ssl",
        f"{images:,} images in {train.steps:,} steps, 2 + {crops.locals} crops each",
        networks,
        images * (TRAINING * (2 * big + crops.locals * small) + 2 * big),
    )


def _diffusion(
    config: Any, task: DiffusionTask, small: int, encoder: float, decoder: float
) -> Iterator[Line]:
    style, side = config.diffusion.style, config.data.tile
    inputs = _image(1, small, small, task.channels + config.diffusion.layout_channels)
    bag = _image(1, style.tiles, side, side, 3)
    frozen = {"first": task.autoencoder.network.abstract} | (
        {"guide": task.guide.abstract} if task.guide else {}
    )
    params = {"style": task.style.abstract}
    read = (jax.eval_shape(task.style_vector, params, frozen, bag),) if task.styled else ()
    forward = _cost(task.unet, inputs, jax.ShapeDtypeStruct((1,), jnp.int32), *read)
    networks = [("denoiser", param_count(task.unet.abstract), forward)]
    styling = 0.0
    if task.styled:
        styling = forward_flops(task.style_vector, params, frozen, bag)
        size = param_count(task.style.abstract) + (
            param_count(task.guide.abstract) if task.guide else 0
        )
        networks.append(("style encoder", size, styling))
    images = config.diffusion.train.steps * config.diffusion.train.batch
    encoding = 0.0 if config.latents.cache else encoder
    yield Line(
        "diffusion",
        f"{images:,} images in {config.diffusion.train.steps:,} steps",
        tuple(networks),
        images * (TRAINING * forward + (1 if task.guide else TRAINING) * styling + encoding),
    )
    synthesis = config.synthesis
    steps = timesteps(synthesis.spacing, synthesis.steps, task.schedule)
    runs = task.guidance(synthesis).evaluations(steps, config.diffusion.schedule.steps)
    yield Line(
        "synthesis",
        f"{synthesis.count:,} images, {len(steps)} steps, {runs} evaluations each",
        (),
        synthesis.count * (runs * forward + 2 * styling + decoder),
    )
