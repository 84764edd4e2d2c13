"""Every task of the stages to come, made without data and weights: what one of them refuses is told
before the first.

Nothing is computed and nothing compiled; networks are shapes (`jax.eval_shape`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.data.around import check_around
from stedm_jax.data.augment import Movement
from stedm_jax.data.classes import class_map
from stedm_jax.data.whole import WholeSet
from stedm_jax.diffusion.samplers import Sampler, check_start, timesteps
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.stages import guided_cache
from stedm_jax.stages.arms import Shown, arm_task, is_head, settings
from stedm_jax.stages.guided import sees_around
from stedm_jax.stages.plan import guided_task
from stedm_jax.stages.run import Run, check_classes
from stedm_jax.stages.ssl import PROTOCOLS
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.ssl import SslTask
from stedm_jax.training.program import check_training
from stedm_jax.training.sharding import check_batch
from stedm_jax.training.snapshots import check_width

_COLORS = ((0, 0, 0), (255, 255, 255))
"""Of two classes, before the tiles tell which there are."""


def check_stages(run: Run, stages: Sequence[str]) -> None:
    """Refuses what one of the stages would refuse when its turn comes.

    Raises:
      UserError: as the tasks, and the settings of their trainings.
    """
    check = _Check(run)
    todo: Mapping[str, Callable[[], None]] = {
        "autoencoder": check.autoencoder,
        "ssl": check.ssl,
        "diffusion": check.diffusion,
        "guided": check.guided,
        "synthesis": check.synthesis,
        "segmentation": check.segmentation,
    }
    for stage in stages:
        if stage in todo:
            todo[stage]()


def check_whole(run: Run) -> None:
    """Refuses a set of whole images (report.whole) that the report could not score; the tiles have
    to be there.

    Raises:
      UserError: the folder holds none, or one of other classes.
    """
    config, data = run.config.report, run.config.data
    if not config.whole:
        return
    images = WholeSet.open(Path(run.workdir.fill(config.whole)))
    names = class_map(images.classes, data.groups, data.foreground).names
    if names != run.classes.names:
        raise UserError(
            f"config.report.whole names {images.path}, which has the classes {', '.join(names)}; the tiles have "
            f"{', '.join(run.classes.names)}. Make it with the command that makes the tiles (--whole), or set "
            "report.whole=''."
        )


class _Check:
    def __init__(self, run: Run):
        self.run, self.config = run, run.config

    def autoencoder(self) -> None:
        self._training(self.first, self.config.autoencoder)

    def _training(self, task: Any, section: Any) -> None:
        check_training(task, section.train, self.run.mesh)

    @cached_property
    def shown(self) -> Shown:
        side = self.config.data.tile
        if self.run.workdir.result("data"):
            classes = self.run.classes
        elif self.config.data.groups:
            classes = check_classes(None, self.config)
        else:
            return Shown(_COLORS, (1,), side)
        return Shown(classes.colors, classes.foreground, side)

    @cached_property
    def first(self) -> AutoencoderTask:
        return AutoencoderTask(self.config.autoencoder, self.run.dtype)

    @cached_property
    def denoiser(self) -> DiffusionTask:
        channels = self.config.autoencoder.model.latent_channels
        scale = LatentScale((0.0,) * channels, (1.0,) * channels)
        return DiffusionTask(
            self.config.diffusion, self.first, scale, self.shown.colors, self.run.dtype
        )

    @cached_property
    def below(self) -> tuple[GuidedTask, Any]:
        """The guided denoiser and its frozen parameters."""
        guided_cache.check(self.config)
        if sees_around(self.config):
            check_around(
                "the tile set", 1, Movement(self.config.data.shift, self.config.data.rotate)
            )
        return guided_task(self.config, self.first)

    def ssl(self) -> None:
        config = self.config.ssl
        if config.probe.protocol not in PROTOCOLS:
            raise UserError(
                f"config.ssl.probe.protocol is '{config.probe.protocol}'; use {' or '.join(PROTOCOLS)}."
            )
        self._training(SslTask(config, self.run.dtype), config)

    def diffusion(self) -> None:
        config = self.config.diffusion
        self._training(self.denoiser, config)
        if config.train.visual_every:
            levels = timesteps("uniform_lambda", config.watch.steps, self.denoiser.schedule)
            check_start(config.prediction, self.denoiser.schedule, levels)
            if config.watch.judge:
                self._arm(JUDGE, self.config.segmentation.judge)

    def guided(self) -> None:
        self._training(self.below[0], self.config.guided)

    def synthesis(self) -> None:
        config, train = self.config.synthesis, self.config.diffusion.train
        check_batch(config.batch, self.run.mesh)
        levels = timesteps(config.spacing, config.steps, self.denoiser.schedule)
        check_start(self.config.diffusion.prediction, self.denoiser.schedule, levels)
        Sampler(config.sampler, config.eta)
        self.denoiser.guidance(config)
        if config.weights.startswith("ema:"):
            ema = train.ema
            check_width(
                float(config.weights.removeprefix("ema:")),
                ema.tracks,
                ema.snapshot_every,
                train.steps,
            )

    def segmentation(self) -> None:
        section, seen = self.config.segmentation, set()
        judged = {JUDGE: section.judge} if "synthesis" in self.config.stages else {}
        for name, arm in [*section.arms.items(), *judged.items()]:
            key = f"{is_head(arm)} {settings(section, name, arm)}"
            if key not in seen:
                self._arm(name, arm)
            seen.add(key)

    def _arm(self, name: str, arm: Any) -> None:
        mine = settings(self.config.segmentation, name, arm)
        below = lambda run, weights: (*self.below, {})  # noqa: E731
        self._training(arm_task(self.run, mine, arm, self.shown, 1, below)[0], mine)
