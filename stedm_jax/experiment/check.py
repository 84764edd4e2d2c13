"""Every task of the cells to come, built without data and weights: what one of them refuses is said
before the first.

Nothing is computed and nothing compiled; networks are shapes (`jax.eval_shape`).
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.data.augment import check_around
from stedm_jax.data.class_shares import warning
from stedm_jax.data.classes import class_map
from stedm_jax.data.remote import is_remote
from stedm_jax.data.styles import StylePool, pool_of
from stedm_jax.data.whole import WholeSet
from stedm_jax.diffusion.samplers import check_end, check_start, timesteps
from stedm_jax.experiment import guided_cache
from stedm_jax.experiment.arm_tiles import check_labelled
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.context import Context, check_classes, known_tiles
from stedm_jax.experiment.init_weights import (
    check_folder,
    check_shapes,
    check_sources,
    source_folder,
)
from stedm_jax.experiment.kept import STEP, check_kept
from stedm_jax.experiment.learned import GUIDE_WEIGHTS, STYLE_WEIGHTS
from stedm_jax.experiment.orders import Orders, StyleOrders, orders_of, real_shares
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.grid import Point
from stedm_jax.settings.methods import ADAIN, ADAIN_KEY
from stedm_jax.settings.root import Settings
from stedm_jax.settings.synthesis import WEAKER, Synthesis
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.build import (
    Shown,
    build_autoencoder,
    build_generator,
    build_guided,
    build_segmenter,
    build_ssl,
)
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.segmentation import SegmentationTask
from stedm_jax.training import peers
from stedm_jax.training.program import check_training
from stedm_jax.training.sharding import check_batch
from stedm_jax.training.snapshots import check_width


def check_cells(context: Context, names: Sequence[str]) -> None:
    """Refuses what one of some cells would refuse when its turn comes.

    Raises:
      UserError: as the tasks, and the settings of their trainings.
    """
    settings, graph, seen = context.settings, Graph(context.settings), set()
    checks: dict[str, CellCheck] = {}
    for cell in (graph[name] for name in names):
        stage, variant, draw = cell.stage, cell.variant, cell.point.draw
        arm = variant.rpartition("/")[0] or JUDGE
        once = (stage, arm) if stage in (JUDGE, "segmentation") else (stage, variant, draw)
        if once in seen:
            continue
        seen.add(once)
        check = checks.setdefault(draw, CellCheck(context.at(Point(draw))))
        if stage == "autoencoder":
            check.learner(check.first, settings.autoencoder)
        elif stage == "ssl":
            check.learner(build_ssl(settings, context.dtype), settings.ssl)
        elif stage == "guided":
            check.learner(check.below, settings.guided)
        elif stage == "generator":
            check.generator(variant)
        elif stage == "synthesis":
            check.synthesis(variant)
        elif stage in (JUDGE, "segmentation"):
            check.segmenter(arm)


def check_data(context: Context) -> None:
    """Refuses a run without tiles, and without commands that make them.

    Raises:
      UserError: names the folder, and where its tiles come from.
    """
    data = context.settings.data
    advice = data.missing or (
        "Prepare one with data_prep.slides or data_prep.folder (data_prep/README.md)."
    )
    if not data.tiles:
        raise UserError(f"config.data.tiles is empty; name the folder of a tile set. {advice}")
    place = context.workdir.fill(data.tiles)
    if data.prepare or is_remote(place) or (Path(place) / "manifest.json").exists():
        return
    raise UserError(f"There is no tile set in {place}. {advice}")


def check_whole(context: Context) -> None:
    """Refuses a set of whole images (report.whole) that the report could not score; the tiles have
    to be there.

    Raises:
      UserError: the folder holds none, or one of other classes.
    """
    data, whole = context.settings.data, context.settings.report.whole
    if not whole:
        return
    images = WholeSet.open(Path(context.workdir.fill(whole)))
    names = class_map(images.classes, data.groups, data.foreground).names
    if names != context.classes.names:
        raise UserError(
            f"config.report.whole names {images.path}, which has the classes {', '.join(names)};"
            f" the tiles have {', '.join(context.classes.names)}. Make it with the command that"
            " makes the tiles (--whole), or set report.whole=''."
        )


def check_weights(settings: Settings, cells: Iterable[Cell]) -> None:
    """Refuses, before hours of training, weights that a later cell could not start from.

    Raises:
      UserError: they are not there, or hold no weights.
    """
    kinds = {(cell.stage, cell.variant.rpartition("/")[0] or cell.variant): cell for cell in cells}
    for cell in kinds.values():
        if cell.stage == "autoencoder":
            check_sources(settings.autoencoder.init_from)
            _check_source(settings.autoencoder.lpips, "autoencoder.lpips")
        elif cell.stage == "ssl":
            check_sources(settings.ssl.init_from)
        elif cell.stage == "guided":
            check_sources(settings.guided.init_from)
            _check_source(settings.guided.guide.weights, GUIDE_WEIGHTS)
        elif cell.stage == "generator":
            section = settings.generator(cell.variant)
            check_sources(section.init_from)
            _check_source(section.style.weights, STYLE_WEIGHTS)
        elif cell.stage == "synthesis":
            _check_set(settings, cell.variant)
        elif cell.stage == "quality":
            _check_source(settings.report.lpips, "report.lpips")
            if settings.report.features != JUDGE:
                _check_source(settings.report.features, "report.features")
        elif cell.stage in (JUDGE, "segmentation"):
            arm = cell.variant.rpartition("/")[0] or JUDGE
            check_sources(settings.arm(arm).init_from)


def _check_set(settings: Settings, name: str) -> None:
    if settings.synthesis.sets[name].method == ADAIN:
        _check_source(settings.synthesis_set(name).adain, ADAIN_KEY)


def _check_source(source: str, key: str) -> None:
    if source:
        source_folder(source, key)


class CellCheck:
    """Builds the tasks of cells, and refuses what these refuse."""

    def __init__(self, context: Context):
        self.context, self.settings = context, context.settings

    def training(self, task: Any, section: Any) -> None:
        check_training(task, section.train, self.context.mesh)
        if self.classes_are_known:
            check_shapes(task, section.init_from, section.init_partial)

    def learner(self, task: Any, section: Any) -> None:
        self.training(task, section)
        if self.tiles_are_there:
            self.context.sources(section.splits)  # refuses splits that the tiles lack

    def generator(self, name: str) -> None:
        section, task = self.settings.generator(name), self.denoiser(name)
        self.training(task, section)
        if self.tiles_are_there:
            context, style = self.context, section.style
            context.sources(section.splits, style)  # refuses too small style pools
            if section.train.eval_every:
                StylePool(context.rows("val"), style.source, style.scope, style.tiles)
            if section.train.visual_every:
                Orders(context, self.settings.synthesis, style)
            if section.train.eval_every:
                pool_of(self.context.rows("val"), section.style, self.context.tiles)
        if section.train.visual_every:
            levels = timesteps("uniform_lambda", section.watch.steps, task.schedule)
            check_start(section.prediction, task.schedule, levels)

    def synthesis(self, name: str) -> None:
        section = self.settings.synthesis_set(name)
        if self.tiles_are_there:
            self.shares(name, orders_of(self.context, name))
        if generator := self.settings.synthesis.sets[name].generator:
            self.sampling(section, generator)

    def shares(self, name: str, orders: Orders | StyleOrders) -> None:
        """Warns of layouts whose classes are not as frequent as in real training."""
        if isinstance(orders, Orders):
            text = warning(real_shares(self.context), orders.class_shares)
            if text and peers.first():
                print(f"warning  synthesis/{name}: {text}", flush=True)

    def sampling(self, section: Synthesis, generator: str) -> None:
        task = self.denoiser(generator)
        check_batch(section.batch, self.context.mesh)
        levels = task.levels(section)
        check_start(task.config.prediction, task.schedule, levels)
        check_end(task.schedule, levels)
        self.weights(task, section.weights, "synthesis.weights")
        guidance = section.guidance
        if guidance.on == WEAKER and not guidance.weaker_generator:
            self.weights(task, guidance.weights, "synthesis.guidance.weights")

    def weights(self, task: DiffusionTask, source: str, key: str) -> None:
        """Refuses weights of a generator that its training will not leave."""
        train = task.config.train
        if source.startswith("ema:"):
            width = float(source.removeprefix("ema:"))
            check_width(width, train.ema.tracks, train.ema.snapshot_every, train.steps)
        elif source.startswith(STEP):
            check_kept(train, source, key)
        elif source not in ("ema", "params"):
            check_folder(task, source, key)

    def segmenter(self, arm: str) -> None:
        if self.settings.arm_entry(arm).choose:
            return
        if self.tiles_are_there:
            check_labelled(self.context, arm)
        self.training(self.segmentation(arm), self.settings.arm(arm))

    def segmentation(self, arm: str) -> SegmentationTask:
        """Of one patient."""
        return build_segmenter(
            self.settings, arm, self.shown, 1, self.context.dtype, self.guide(arm)
        )

    def guide(self, arm: str) -> GuidedTask | None:
        return self.below if self.settings.arm_entry(arm).is_head else None

    def denoiser(self, name: str) -> DiffusionTask:
        return build_generator(
            self.settings, name, self.first, self.shown.colors, self.context.dtype
        )

    @cached_property
    def tiles_are_there(self) -> bool:
        """Whether the tile set can be looked at without fetching it."""
        place = self.context.workdir.fill(self.settings.data.tiles)
        return not is_remote(place) and known_tiles(self.settings, self.context.workdir) is not None

    @property
    def classes_are_known(self) -> bool:
        return bool(self.settings.data.groups or self.context.workdir.result("data"))

    @cached_property
    def shown(self) -> Shown:
        """The classes, if they are known before the tiles are."""
        side = self.settings.data.tile
        if self.context.workdir.result("data"):
            classes = self.context.classes
        elif self.settings.data.groups:
            classes = check_classes(None, self.settings)
        else:
            return Shown(side=side)  # of two classes, which may not be those of the tiles
        return Shown(classes.colors, classes.foreground, side)

    @cached_property
    def first(self) -> AutoencoderTask:
        return build_autoencoder(self.settings, self.context.dtype)

    @cached_property
    def below(self) -> GuidedTask:
        guided_cache.check(self.settings)
        if self.settings.guided.guide.sees_around:
            check_around("the tile set", 1, self.context.movement)
        return build_guided(self.settings, self.first, self.context.dtype)
