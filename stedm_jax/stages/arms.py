"""The networks that arms of the stage segmentation compare: what each is, and what it needs that is
not trained.

An arm's `network` is one of NETWORKS (settings/arm_networks.py), its `changes` are (key, value) pairs; both
say how the section config.segmentation differs for this arm. Steps, batches, augmentation and
scores are the same in all arms. What init_from names is for `model`; another network starts from
weights that its arm's changes name, if any.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ArrayStore
from stedm_jax.settings.arm_networks import NETWORKS
from stedm_jax.stages import guide, guided, guided_cache
from stedm_jax.stages.frozen import Weights
from stedm_jax.stages.initial import check_sources
from stedm_jax.stages.run import Run
from stedm_jax.tasks.contour import segmentation_task
from stedm_jax.tasks.features import Features, check_features
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.pixel_head import DENOISER, PixelHeadTask
from stedm_jax.tasks.segmentation import SegmentationTask
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import param_shardings, place
from stedm_jax.workdir import flatten

HEADS = ("ldm", "random-ldm", "vit", "concat")
"""Those of NETWORKS that are a head on features."""
DEFAULT = "model"
BELOW = ("first", "guide")
"""The frozen parts whose results guided_cache keeps."""
WEIGHTS = ("trained", "random")


@dataclass(frozen=True)
class Learner:
    """What an arm trains.

    Attributes:
      program: of its task.
      config: config.segmentation as it is for the arm.
      frozen: parameters that are not trained.
      used: which they are, for `frozen.pin`.
      around: whether its batches need the field around a tile.
      store: what was computed of the tiles and is read in place of them.
    """

    program: Program
    config: Any
    frozen: Any = field(default_factory=dict)
    used: Mapping[str, Weights] = field(default_factory=dict)
    around: bool = False
    store: ArrayStore | None = None


def settings(config: Any, name: str, arm: Any) -> Any:
    """config.segmentation as it is for an arm.

    Raises:
      UserError: an unknown network, or a change of a key that is not there, or to a value of
        another type.
    """
    network = arm.get("network", DEFAULT)
    if network not in NETWORKS:
        raise UserError(
            f"The arm '{name}' names the network '{network}'; there are {', '.join(NETWORKS)}."
        )
    mine = config.copy_and_resolve_references()
    for key, value in [*NETWORKS[network].items(), *arm.get("changes", ())]:
        if key.split(".")[0] in (
            "arms",
            "judge",
            "seeds",
            "train",
            "border",
        ):  # border: which pixels are scored
            raise UserError(f"The arm '{name}' changes '{key}', which is the same for all arms.")
        if key not in flatten(config):
            raise UserError(
                f"The arm '{name}' changes '{key}', which config.segmentation does not have."
            )
        try:
            mine.update_from_flattened_dict(
                {key: tuple(value) if isinstance(value, list) else value}
            )
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"The arm '{name}' changes '{key}' to {value!r}, which cannot be: {error}."
            ) from error
    return mine


def baseline(config: Any, arms: Iterable[str]) -> str | None:
    """The arm that others are compared with: as config.report.baseline says, else labelled; None:
    the first."""
    return config.report.baseline or ("labelled" if "labelled" in arms else None)


def check_arm(config: Any, name: str, arm: Any) -> None:
    """Refuses, before anything runs, an arm that would fail after hours.

    Raises:
      UserError: as `settings`; weights that are not there; features that the denoiser or the tiles
        do not have; a judge that cannot be one; with report.whole, as `check_images`.
    """
    mine = settings(config.segmentation, name, arm)
    check_sources(mine.init_from)
    if is_head(arm):
        if "guided" not in config.stages:
            raise UserError(
                f"The arm '{name}' reads features of a guided denoiser, but config.stages does not name guided."
            )
        model = config.autoencoder.model
        halvings = 3 if model.kind == "taef2" else len(model.multipliers) - 1
        check_features(mine.features, config.guided, config.data.tile, 2**halvings)
    if arm.real < 1 and reads_around(config, mine, arm):
        raise UserError(
            f"The arm '{name}' learns from synthetic tiles (real={arm.real:g}), but the guide of its denoiser has a "
            "region token (guided.guide.tokens), and synthetic tiles have no field around them. Set its real=1.0."
        )
    _check_judge(config)
    if config.report.whole and "report" in config.stages:
        check_images(config, name, arm)


def _check_judge(config: Any) -> None:
    """Refuses a judge that would fail when synthetic tiles are there, as `check_arm` does an
    arm."""
    judge = config.segmentation.judge
    check_sources(settings(config.segmentation, "judge", judge).init_from)
    if is_head(judge):
        raise UserError(
            f"config.segmentation.judge names the network '{judge.network}', a head on features of a denoiser; the "
            f"judge is a network of its own: one of {', '.join(name for name in NETWORKS if name not in HEADS)}."
        )


def check_images(config: Any, name: str, arm: Any) -> None:
    """Refuses an arm that images of any size cannot be given to.

    Raises:
      UserError: its features depend on the field around a tile.
    """
    if reads_around(config, settings(config.segmentation, name, arm), arm):
        raise UserError(
            f"The arm '{name}' cannot segment whole images: the guide of its denoiser has a region token "
            "(guided.guide.tokens), which is made of the field around each tile, and an image has no field around it "
            "at its edge. Choose an arm of another network, or leave such arms out of a run with report.whole."
        )


def is_head(arm: Any) -> bool:
    """Whether an arm trains a head on features."""
    return arm.get("network", DEFAULT) in HEADS


def reads_around(config: Any, mine: Any, arm: Any) -> bool:
    """Whether an arm, whose `settings` are `mine`, needs the field around a tile."""
    embeds = is_head(arm) and mine.features.source != "vit" and mine.features.guided
    return embeds and guided.sees_around(config)


@dataclass(frozen=True)
class Shown:
    """What a task has to know of the tiles: colours of the classes, ids of the foreground, side in
    pixels."""

    colors: Sequence[tuple[int, int, int]]
    foreground: Sequence[int]
    side: int


Below = Callable[[Run, str], tuple[GuidedTask, Any, dict[str, Weights]]]


def arm_task(
    run: Run, config: Any, arm: Any, shown: Shown, patients: int, below: Below = guided.trained
) -> tuple[SegmentationTask, Any, dict[str, Weights]]:
    """The task of an arm, its frozen parameters, and which they are.

    Args:
      config: of `settings`.
      patients: most that are scored at once.
      below: gives what lies below a head, as `guided.trained`.

    Raises:
      UserError: the stages that it needs have not finished; features that there are not.
    """
    if not is_head(arm):
        return (
            segmentation_task(config, shown.colors, shown.foreground, patients, run.dtype),
            {},
            {},
        )
    weights = config.features.weights
    if weights not in WEIGHTS:
        raise UserError(
            f"segmentation.features.weights is '{weights}'; valid are {', '.join(WEIGHTS)}."
        )
    denoiser, frozen, used = below(run, weights)
    encoder = guide.build(run.config, run.dtype)
    features = Features(config.features, denoiser, shown.side, encoder.size.width if encoder else 0)
    task = PixelHeadTask(config, shown.colors, shown.foreground, patients, run.dtype, features)
    if task.tunes:  # the denoiser is among what is trained
        frozen = {part: params for part, params in frozen.items() if part != DENOISER}
    return task, frozen, used


class Learners:
    """The learners of a run's arms; those that differ in nothing share one, and what is frozen is
    loaded once.

    Args:
      run: the run.
      patients: most that are scored at once.
    """

    def __init__(self, run: Run, patients: int):
        self.run, self.patients = run, patients
        self._store: ArrayStore | None = None
        self._made: dict[str, Learner] = {}
        self._frozen: dict[str, tuple[GuidedTask, Any, dict[str, Weights]]] = {}

    def __call__(self, name: str, arm: Any) -> Learner:
        """That of an arm."""
        mine = settings(self.run.config.segmentation, name, arm)
        key = f"{is_head(arm)} {mine}"
        if key not in self._made:
            self._made[key] = self._learner(mine, arm)
        return self._made[key]

    def _learner(self, config: Any, arm: Any) -> Learner:
        run = self.run
        shown = Shown(run.classes.colors, run.classes.foreground, run.tiles.tile)
        task, frozen, used = arm_task(run, config, arm, shown, self.patients, self._below)
        if not isinstance(task, PixelHeadTask):
            return Learner(Program(task, config.train, run.mesh), config)
        if task.tunes and config.features.weights == "trained":
            parts = task.features.task.network.abstract
            config.init_from = (
                *config.init_from,
                *(f"{part}={run.workdir.path / 'guided'}" for part in parts),
            )
        around = reads_around(run.config, config, arm)
        store = self._store if tuple(config.features.scales) == (1.0,) else None
        return Learner(Program(task, config.train, run.mesh), config, frozen, used, around, store)

    def _below(self, run: Run, weights: str) -> tuple[GuidedTask, Any, dict[str, Weights]]:
        if weights not in self._frozen:
            task, frozen, used = guided.trained(run, weights)
            if self._store is None:
                known = (
                    {name: tree[name] for name in BELOW if name in tree} for tree in (frozen, used)
                )
                self._store = guided_cache.stored(run, task, *known)
            self._frozen[weights] = task, place(frozen, param_shardings(frozen, run.mesh)), used
        return self._frozen[weights]
