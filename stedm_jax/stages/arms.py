"""The networks that arms of the stage segmentation compare: what each is, and what it needs that is not trained.

An arm's `network` is one of NETWORKS, and its `changes` are (key, value) pairs; both say how the section
config.segmentation differs for this arm. Steps, batches, augmentation and scores are the same in all arms. What
init_from names is for `model`; another network starts from weights that its arm's changes name, if any.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stedm_jax.config import halvings
from stedm_jax.data.arrays import ArrayStore
from stedm_jax.errors import UserError
from stedm_jax.stages import guide, guided, guided_cache
from stedm_jax.stages.frozen import Weights
from stedm_jax.stages.initial import check_sources
from stedm_jax.stages.run import Run
from stedm_jax.tasks.contour import segmentation_task
from stedm_jax.tasks.features import Features, check_features
from stedm_jax.tasks.pixel_head import DENOISER, PixelHeadTask
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import param_shardings, place
from stedm_jax.workdir import flatten

NETWORKS: dict[str, dict[str, Any]] = {
    "model": {},  # as segmentation.model says
    "resnet18-unet": {"init_from": (), "model.kind": "unet", "model.encoder": "resnet18"},
    "vgg16-fcn8s": {"init_from": (), "model.kind": "fcn8s"},
    "dcan": {"init_from": (), "model.kind": "dcan"},
    "ldm": {"init_from": (), "features.source": "ldm"},
    "random-ldm": {"init_from": (), "features.source": "ldm", "features.weights": "random"},
    "vit": {"init_from": (), "features.source": "vit"},
    "concat": {"init_from": (), "features.source": "concat"},
}
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
      UserError: an unknown network, or a change of a key that is not there, or to a value of another type.
    """
    network = arm.get("network", DEFAULT)
    if network not in NETWORKS:
        raise UserError(f"The arm '{name}' names the network '{network}'; there are {', '.join(NETWORKS)}.")
    mine = config.copy_and_resolve_references()
    for key, value in [*NETWORKS[network].items(), *arm.get("changes", ())]:
        if key.split(".")[0] in ("arms", "judge", "seeds", "train"):
            raise UserError(f"The arm '{name}' changes '{key}', which is the same for all arms.")
        if key not in flatten(config):
            raise UserError(f"The arm '{name}' changes '{key}', which config.segmentation does not have.")
        try:
            mine.update_from_flattened_dict({key: tuple(value) if isinstance(value, list) else value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"The arm '{name}' changes '{key}' to {value!r}, which cannot be: {error}.") from error
    return mine


def check_arm(config: Any, name: str, arm: Any) -> None:
    """Refuses, before anything runs, an arm that would fail after hours.

    Raises:
      UserError: as `settings`; weights that are not there; features that the denoiser does not have.
    """
    mine = settings(config.segmentation, name, arm)
    check_sources(mine.init_from)
    if is_head(arm):
        if "guided" not in config.stages:
            raise UserError(
                f"The arm '{name}' reads features of a guided denoiser, but config.stages does not name guided."
            )
        check_features(mine.features, config.guided, config.data.tile, 2 ** halvings(config))


def is_head(arm: Any) -> bool:
    """Whether an arm trains a head on features."""
    return arm.get("network", DEFAULT) in HEADS


class Learners:
    """The learners of a run's arms; those that differ in nothing share one, and what is frozen is loaded once.

    Args:
      run: the run.
      patients: most that are scored at once.
    """

    def __init__(self, run: Run, patients: int):
        self.run, self.patients = run, patients
        self._store: ArrayStore | None = None
        self._made: dict[str, Learner] = {}
        self._frozen: dict[str, tuple[Any, Any, dict[str, Weights]]] = {}

    def __call__(self, name: str, arm: Any) -> Learner:
        """That of an arm."""
        mine = settings(self.run.config.segmentation, name, arm)
        key = f"{is_head(arm)} {mine}"
        if key not in self._made:
            self._made[key] = self._head(mine) if is_head(arm) else self._segmenter(mine)
        return self._made[key]

    def _segmenter(self, config: Any) -> Learner:
        run = self.run
        task = segmentation_task(config, run.classes.colors, run.classes.foreground, self.patients, run.dtype)
        return Learner(Program(task, config.train, run.mesh), config)

    def _head(self, config: Any) -> Learner:
        run, weights = self.run, config.features.weights
        if weights not in WEIGHTS:
            raise UserError(f"segmentation.features.weights is '{weights}'; valid are {', '.join(WEIGHTS)}.")
        if weights not in self._frozen:
            task, frozen, used = guided.trained(run, weights)
            if self._store is None:
                below = ({name: tree[name] for name in BELOW if name in tree} for tree in (frozen, used))
                self._store = guided_cache.stored(run, task, *below)
            self._frozen[weights] = task, place(frozen, param_shardings(frozen, run.mesh)), used
        task, frozen, used = self._frozen[weights]
        encoder = guide.build(run.config, run.dtype)
        features = Features(config.features, task, run.tiles.tile, encoder.size.width if encoder else 0)
        mine = PixelHeadTask(
            config, run.classes.colors, run.classes.foreground, self.patients, run.dtype, features
        )  # fmt: skip
        if mine.tunes and weights == "trained":
            config.init_from = (*config.init_from, f"{DENOISER}={run.workdir.path / 'guided'}")
        around, store = guided.sees_around(run), self._store if tuple(config.features.scales) == (1.0,) else None
        return Learner(Program(mine, config.train, run.mesh), config, frozen, used, around, store)
