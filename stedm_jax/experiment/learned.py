"""What earlier cells learned, as tasks with their parameters, for the cells that build on it."""

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import jax

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.counted import best_of
from stedm_jax.experiment.kept import Kept
from stedm_jax.experiment.learn import restore, weights_of
from stedm_jax.experiment.pinned import Weights, pin
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.synthesis import WEAKER, Guidance, Synthesis
from stedm_jax.tasks.autoencoder import AutoencoderTask, own
from stedm_jax.tasks.build import (
    Shown,
    build_autoencoder,
    build_generator,
    build_guide,
    build_guided,
    build_segmenter,
    build_ssl,
)
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.latent_diffusion import LatentScale
from stedm_jax.tasks.ssl import BACKBONE
from stedm_jax.training.rng import stream_key

STYLE_WEIGHTS = "diffusion.style.weights"
GUIDE_WEIGHTS = "guided.guide.weights"
T = TypeVar("T")


@dataclass(frozen=True)
class Below(Generic[T]):
    """A task and what lies frozen below it.

    Attributes:
      task: what learns, or has learned.
      frozen: parameters that it does not train.
      used: which they are, for `pinned.pin`.
    """

    task: T
    frozen: dict[str, Any]
    used: dict[str, Weights]


class Learned:
    """What the cells of a run have learned."""

    def __init__(self, context: Context):
        self.context, self.settings = context, context.settings

    def need(self, *cells: str) -> None:
        """Refuses to go on before some cells, called as without a grid, have finished.

        Raises:
          UserError: names them.
        """
        workdir = self.context.workdir
        names = [self.context.cell(cell) for cell in cells]
        missing = [name for name in names if workdir.result(name) is None]
        if missing:
            raise UserError(
                f"This needs {', '.join(missing)}, which has not finished in {workdir.path}; run"
                " the command without --stage, or name those too."
            )

    @cached_property
    def autoencoder(self) -> tuple[AutoencoderTask, Any, Weights]:
        """The first stage with its parameters, without a discriminator's, and which they are."""
        self.need("autoencoder")
        task = build_autoencoder(self.settings, self.context.dtype)
        cell = self.context.cell("autoencoder")
        params, origin = restore(self.context, task, cell)
        return task, own(params), weights_of(self.context, cell, origin)

    @property
    def scale(self) -> LatentScale:
        """Shift and scale of the latents."""
        self.need("latents")
        result = self.context.workdir.result(self.context.cell("latents")) or {}
        return LatentScale(tuple(result["shift"]), tuple(result["scale"]))

    def denoiser(self, name: str, judged: bool = False) -> Below[DiffusionTask]:
        """The task of a generator; with `judged`, the judge scores its samples, or teaches it."""
        first, params, origin = self.autoencoder
        frozen, used, judge = {"first": params}, {"first": origin}, None
        if judged:
            judge, frozen["judge"], origin = self._judge
            used |= {"judge": origin} if self.settings.generator(name).judge.used else {}
        colors, dtype = self.context.classes.colors, self.context.dtype
        task = build_generator(self.settings, name, first, colors, dtype, self.scale, judge)
        if task.guide is not None:
            source = self.settings.generator(name).style.weights
            kept = self.context.kept or Kept()
            read = kept.of_source(task.guide.abstract, source, STYLE_WEIGHTS)
            frozen["guide"], used["guide"] = read
        return Below(task, frozen, used)

    def generator(self, name: str, synthesis: Synthesis) -> tuple[Below[DiffusionTask], Any, Any]:
        """A trained generator, the parameters that a synthesis set asks for, and their
        provenance."""
        self.need(f"generator/{name}")
        cell = self.context.cell(f"generator/{name}")
        below = self.denoiser(name)
        noted = pin(self.context.workdir.folder(cell), below.used)
        averaged = self.settings.generator(name).train.ema.decay or synthesis.weights != "ema"
        which = synthesis.weights if averaged else "params"
        params, origin = restore(self.context, below.task, cell, which=which)
        origin |= {f"{part}_sha256": weights["sha256"] for part, weights in noted.items()}
        if synthesis.guidance.on == WEAKER:
            below, weaker, found = self._weaker(name, below, synthesis.guidance)
            params = {**params, WEAKER: weaker}
            origin["guidance_weights"] = synthesis.guidance.weights
            origin["guidance_weights_sha256"] = found["checkpoint_sha256"]
        return below, params, origin

    def _weaker(
        self, name: str, below: Below[DiffusionTask], guidance: Guidance
    ) -> tuple[Below[DiffusionTask], Any, Any]:
        """What lies below a generator and the weaker model that guides it, the parameters of that
        model, and their provenance."""
        other, which = guidance.weaker_generator, guidance.weights
        cell = self.context.cell(f"generator/{other or name}")
        if not other:
            return below, *restore(self.context, below.task, cell, which=which)
        self.need(f"generator/{other}")
        weaker = self.denoiser(other)
        pin(self.context.workdir.folder(cell), weaker.used)
        task = copy(below.task)
        task.weaker = weaker.task
        given = replace(below, task=task, frozen=below.frozen | {WEAKER: weaker.frozen})
        averaged = self.settings.generator(other).train.ema.decay
        which = "ema" if averaged else "params"
        return given, *restore(self.context, weaker.task, cell, which=which)

    @property
    def judge(self) -> tuple[Any, Any]:
        """The segmenter that judges synthetic images, and its parameters."""
        return self._judge[:2]

    @cached_property
    def _judge(self) -> tuple[Any, Any, Weights]:
        self.need(JUDGE)
        classes, tile = self.context.classes, self.settings.data.tile
        shown = Shown(classes.colors, classes.foreground, tile)
        task = build_segmenter(self.settings, JUDGE, shown, 1, self.context.dtype)
        best = best_of(self.settings.arm(JUDGE))
        cell = self.context.cell(JUDGE)
        params, origin = restore(self.context, task, cell, best=best)
        return task, params, weights_of(self.context, cell, origin)

    def guided(self) -> Below[GuidedTask]:
        """The task of the guided denoiser, with the first stage and the guide, if there is one."""
        first, params, origin = self.autoencoder
        task = build_guided(self.settings, first, self.context.dtype, self.scale)
        frozen, used = {"first": params}, {"first": origin}
        if task.guide is not None:
            frozen["guide"], used["guide"] = self._guide()
        return Below(task, frozen, used)

    def trained_guided(self, weights: str) -> Below[GuidedTask]:
        """As `guided`, with the denoiser's own parameters among the frozen ones.

        Args:
          weights: "trained", or "random": those of a denoiser that has learned nothing, drawn from
            the run's seed.

        Raises:
          UserError: it has not finished, or learned with another first stage or guide.
        """
        below = self.guided()
        if weights == "random":
            key = stream_key(self.settings.seed, "init")
            below.frozen["denoiser"] = jax.jit(below.task.init)(key)
            return below
        self.need("guided")
        cell = self.context.cell("guided")
        pin(self.context.workdir.folder(cell), below.used)
        below.frozen["denoiser"], origin = restore(self.context, below.task, cell)
        below.used["denoiser"] = weights_of(self.context, cell, origin)
        return below

    def _guide(self) -> tuple[Any, Weights]:
        """Parameters of the guide, and which they are."""
        guide = self.settings.guided.guide
        if guide.source == "ssl":
            self.need("ssl")
            task, cell = build_ssl(self.settings, self.context.dtype), self.context.cell("ssl")
            params, origin = restore(self.context, task, cell)
            return params[BACKBONE], weights_of(self.context, cell, origin)
        encoder = build_guide(self.settings, self.context.dtype)
        assert encoder is not None  # there is a guide
        kept = self.context.kept or Kept()
        return kept.of_source(encoder.network.abstract, guide.weights, GUIDE_WEIGHTS)
