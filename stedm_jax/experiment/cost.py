"""What each cell costs: its networks, their parameters, and the FLOPs of a forward and of the cell.

A multiplication with its addition counts as two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from stedm_jax.common.text import flops
from stedm_jax.data.arrays import StoreSpec
from stedm_jax.data.classes import ClassMap
from stedm_jax.diffusion.partial import inversion_levels
from stedm_jax.experiment import guided_cache, latent_cache
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.points import cell_name
from stedm_jax.models.flops import forward_flops
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.named_networks import STYLE_TRANSFER, network
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.methods import ADAIN, METHODS, PSEUDO_LABELS
from stedm_jax.settings.root import Settings
from stedm_jax.settings.training import Training
from stedm_jax.tasks.build import (
    Shown,
    build_autoencoder,
    build_generator,
    build_guided,
    build_segmenter,
    build_ssl,
)
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.tasks.pixel_head import DENOISER, HEAD, PixelHeadTask

TRAINING = 3.0
"""Forward and backward cost of a training step, in forwards."""


@dataclass(frozen=True)
class Network:
    """A network of a cell, with its parameters and the FLOPs of a forward of one image."""

    name: str
    parameters: int
    forward: float


@dataclass(frozen=True)
class Cost:
    """What a cell does, its networks, and its FLOPs in all."""

    what: str
    networks: tuple[Network, ...] = ()
    total: float = 0.0


class Costs:
    """The costs of the cells of an experiment.

    Args:
      settings: of the experiment.
      classes: that it learns.
      records: split -> records of the tile set; empty before there is one.
    """

    def __init__(self, settings: Settings, classes: ClassMap, records: Mapping[str, int]):
        self.settings, self.classes, self.records = settings, classes, records
        self.side = settings.data.tile
        self._known: dict[str, Cost] = {}

    def of(self, cell: Cell) -> Cost:
        """That of a cell; nothing for those that cost next to nothing."""
        make = getattr(self, f"_{cell.stage}", None)
        name = cell_name(cell.stage, cell.variant)  # at all points of a grid the same
        if name not in self._known:
            self._known[name] = make(cell) if make else Cost("")
        return self._known[name]

    def _autoencoder(self, cell: Cell) -> Cost:
        section = self.settings.autoencoder
        images = _images(section.train)
        seen = ((section.crop or self.side) / self.side) ** 2  # share of a tile that a step sees
        forward = self.encoder + self.decoder
        network = Network("autoencoder", param_count(self.first.network.abstract), forward)
        what = _training(section.train) if images else _as_it_is(section.init_from)
        if not section.learns:
            what = f"{section.model.kind} of {section.model.patch} px, nothing to learn"
        return Cost(what, (network,), TRAINING * images * seen * forward)

    def _latents(self, cell: Cell) -> Cost:
        """Measuring the scale, and what the cache encodes."""
        section, train = self.settings.latents, self.settings.diffusion.train
        tiles = 0 if section.scale else section.tiles
        what = f"scale measured on {tiles:,} tiles" if tiles else f"scale {section.scale:g}"
        if not section.cache:
            return Cost(what, (), tiles * self.encoder)
        spec = latent_cache.plan(self.settings, self.first, self.records, {})
        what += f"; {_cache(spec)}"
        if self.records:
            what += f"; training without it encodes {_images(train):,} images"
        return Cost(what, (), (tiles + spec.records) * self.encoder)

    def _ssl(self, cell: Cell) -> Cost:
        section = self.settings.ssl
        crops, task = section.crops, build_ssl(self.settings, jnp.float32)
        embedding = jax.ShapeDtypeStruct((1, task.size.embedding_dim), jnp.float32)
        head = _forward(task.head, embedding)
        big, small = (
            _forward(task.network, _image(side)) + head
            for side in (crops.global_size, crops.local_size)
        )
        networks = (
            Network("encoder", param_count(task.network.abstract), big - head),
            Network("head", param_count(task.head.abstract), head),
        )
        each = TRAINING * (2 * big + crops.locals * small) + 2 * big
        what = f"{_training(section.train)}, 2 + {crops.locals} crops each"
        return Cost(what, networks, _images(section.train) * each)

    def _guided(self, cell: Cell) -> Cost:
        """The denoiser; its guide and the encoder run for each image, or once for each stored
        view."""
        section, task = self.settings.guided, self.below
        small = self.side // task.factor
        embeddings = {
            name: jax.ShapeDtypeStruct((1, width), jnp.float32)
            for name, width in task.widths.items()
        }
        latents = _image(small, task.channels)
        timestep = jax.ShapeDtypeStruct((1,), jnp.int32)
        forward = _forward(task.network, latents, timestep, embeddings or None)
        networks = [Network("denoiser", param_count(task.network.abstract), forward)]
        below = self.encoder
        if task.guide is not None:
            embedding = _forward(task.guide, _image(self.side))
            networks.append(Network("guide", param_count(task.guide.abstract), embedding))
            below += embedding * (len(task.widths) - bool(task.absent))
        images = _images(section.train)
        what = _training(section.train) if images else _as_it_is(section.init_from)
        if not section.cache:
            return Cost(what, tuple(networks), images * (TRAINING * forward + below))
        frozen = task.abstract_frozen
        spec = guided_cache.plan(self.settings, task, frozen, self.records, {})
        image = jax.ShapeDtypeStruct((1, self.side, self.side, 3), jnp.uint8)
        made = forward_flops(guided_cache.describe(self.settings, task), frozen, image)
        total = images * TRAINING * forward + spec.records * made
        return Cost(f"{what}; {_cache(spec)}", tuple(networks), total)

    def _generator(self, cell: Cell) -> Cost:
        section, task = self.settings.generator(cell.variant), self.denoiser(cell.variant)
        forward, styling = self._evaluation(cell.variant)
        networks = [Network("denoiser", param_count(task.unet.abstract), forward)]
        if task.styled:
            size = param_count(task.style.abstract)
            size += param_count(task.guide.abstract) if task.guide else 0
            networks.append(Network("style encoder", size, styling))
        encoding = 0.0 if self.settings.latents.cache else self.encoder
        each = TRAINING * forward + (1 if task.guide else TRAINING) * styling + encoding
        return Cost(_training(section.train), tuple(networks), _images(section.train) * each)

    def _synthesis(self, cell: Cell) -> Cost:
        section = self.settings.synthesis_set(cell.variant)
        entry = self.settings.synthesis.sets[cell.variant]
        if not entry.generator:
            what = f"{section.count:,} images, {entry.method}"
            return Cost(what, (), section.count * self._made_by(cell.variant, entry.method))
        task = self.denoiser(entry.generator)
        forward, styling = self._evaluation(entry.generator)
        steps, seen = task.levels(section), task.evaluated(section)
        runs = task.guidance(section).evaluations(seen, task.config.schedule.steps)
        each = 2 * styling + self.decoder
        if other := section.guidance.weaker_generator:
            weaker, seeing = self._evaluation(other)
            each += seeing - styling + (runs - len(seen)) * (weaker - forward)
        if section.reads_tile:
            bag = task.config.style.tiles if section.match == "latent" else 0
            each += (1 + bag) * self.encoder + section.keep_detail * self.decoder
        if section.inverts:
            runs += len(inversion_levels(steps)) - 1
            each += styling
        what = f"{section.count:,} images, {len(steps)} steps, {runs} evaluations each"
        return Cost(what, (), section.count * (each + runs * forward))

    def _made_by(self, name: str, method: str) -> float:
        """FLOPs of an image by a method that has no generator; 0 without a network."""
        if method == PSEUDO_LABELS:
            return self._arm(JUDGE)[1]
        if method == ADAIN:
            return self._style_transfer(self.settings.style_of(name).tiles)
        if "autoencoder" not in METHODS[method].needs:
            return 0.0
        if method == "reconstruction":
            return self.encoder + self.decoder
        section, bag = self.settings.synthesis_set(name), self.settings.style_of(name).tiles
        return (1 + bag) * self.encoder + (1 + section.keep_detail) * self.decoder

    def _style_transfer(self, bag: int) -> float:
        """FLOPs of a published AdaIN, with a bag of style tiles."""
        net, image = network(STYLE_TRANSFER), _image(self.side)
        features = jax.eval_shape(
            lambda params, x: net.apply(params, x, method="encode"), net.abstract, image
        )
        encoding = _forward(net, image, method="encode")
        return (1 + bag) * encoding + _forward(net, features, method="decode")

    def _judge(self, cell: Cell) -> Cost:
        return self._segmenter(JUDGE)

    def _segmentation(self, cell: Cell) -> Cost:
        name = cell.variant.rpartition("/")[0]
        arm = self.settings.arm_entry(name)
        if arm.normalize:
            return Cost(f"scores {arm.choose[0]} in one stain")
        options = ", ".join(arm.choose)
        return Cost(f"takes one of {options}") if options else self._segmenter(name)

    def _segmenter(self, name: str) -> Cost:
        """Of a head, what is frozen below it runs forward only."""
        if name not in self._segmenters:
            section = self.settings.arm(name)
            size, forward, frozen = self._arm(name)
            each = TRAINING * (forward - frozen) + frozen
            network = Network(self.settings.arm_entry(name).network, size, forward)
            total = _images(section.train) * each
            self._segmenters[name] = Cost(_training(section.train), (network,), total)
        return self._segmenters[name]

    @cached_property
    def _segmenters(self) -> dict[str, Cost]:
        return {}

    def _arm(self, name: str) -> tuple[int, float, float]:
        """Trained parameters, FLOPs of a forward of one image, and those of its frozen part."""
        settings, classes = self.settings, self.classes
        shown = Shown(classes.colors, classes.foreground, self.side)
        image = jax.ShapeDtypeStruct((1, self.side, self.side, 3), jnp.uint8)
        head = settings.arm_entry(name).is_head
        task = build_segmenter(settings, name, shown, 1, jnp.float32, self.below if head else None)
        if not isinstance(task, PixelHeadTask):
            params = task.network.abstract
            return param_count(params), forward_flops(task.maps, params, {}, image), 0.0
        below, frozen = self.below.network.abstract, self.below.abstract_frozen
        params = {HEAD: task.network.abstract} | (below if task.tunes else {})
        batch = {"image": image} | ({"region": image} if settings.reads_around(name) else {})
        with_denoiser = frozen | {DENOISER: below}
        forward = forward_flops(lambda *args: task.logits(*args)[0], params, with_denoiser, batch)
        cost = 0.0 if task.tunes else forward_flops(task.features, below, frozen, batch)
        return param_count(params), forward, cost

    def denoiser(self, name: str) -> DiffusionTask:
        """The task of a generator."""
        return build_generator(self.settings, name, self.first, self.classes.colors, jnp.float32)

    def _evaluation(self, name: str) -> tuple[float, float]:
        """FLOPs of the denoiser and of reading the style, of one image."""
        section, task = self.settings.generator(name), self.denoiser(name)
        small = self.side // task.factor
        inputs = _image(small, task.channels + section.layout_channels)
        bag = jax.ShapeDtypeStruct(
            (1, section.style.tiles, *_image(self.side).shape[1:]), jnp.float32
        )
        params, frozen = {"style": task.style.abstract} if task.styled else {}, task.abstract_frozen
        read, styling = (), 0.0
        if task.styled:
            read = (jax.eval_shape(task.style_vector, params, frozen, bag),)
            styling = forward_flops(task.style_vector, params, frozen, bag)
        timestep = jax.ShapeDtypeStruct((1,), jnp.int32)
        return _forward(task.unet, inputs, timestep, *read), styling

    @cached_property
    def first(self) -> Any:
        """The task of the autoencoder."""
        return build_autoencoder(self.settings, jnp.float32)

    @cached_property
    def below(self) -> Any:
        """The task of the guided denoiser."""
        return build_guided(self.settings, self.first, jnp.float32)

    @cached_property
    def encoder(self) -> float:
        """FLOPs of encoding a tile."""
        return _forward(self.first.network, _image(self.side), method="encode")

    @cached_property
    def decoder(self) -> float:
        """FLOPs of decoding a tile."""
        latents = _image(self.side // self.first.factor, self.first.channels)
        return _forward(self.first.network, latents, method="decode")


def _forward(network: Functional, *args: Any, method: str = "__call__") -> float:
    return forward_flops(
        lambda params, *inputs: network.apply(params, *inputs, method=method),
        network.abstract,
        *args,
    )


def _image(side: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def _images(train: Training) -> int:
    return train.steps * train.batch


def _training(train: Training) -> str:
    return f"{_images(train):,} images in {train.steps:,} steps"


def _as_it_is(init_from: tuple[str, ...]) -> str:
    return f"{', '.join(init_from)} as it is"


def _cache(spec: StoreSpec) -> str:
    """Bytes of a view, views of each split, and where the tiles are there, those of all."""
    views = ", ".join(f"{split} x {count}" for split, count in spec.views.items())
    text = f"cache of {spec.record_bytes / 1e3:,.0f} kB a view ({views})"
    return text + (f", {spec.records:,} views, {spec.size / 1e9:,.2f} GB" if spec.tiles else "")


def say(cost: Cost) -> list[str]:
    """A cost in words: a line for the cell, and one for each network."""
    lines = [f"{cost.what}; {flops(cost.total)}" if cost.total else cost.what]
    return lines + [
        f"  {network.name}: {network.parameters / 1e6:,.2f} M parameters, {flops(network.forward)}"
        " an image forward"
        for network in cost.networks
    ]
