"""The settings of an experiment."""

from collections.abc import Mapping
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.settings.arm import Arm
from stedm_jax.settings.arm_networks import JUDGE, NETWORKS
from stedm_jax.settings.autoencoder import Autoencoder
from stedm_jax.settings.data import Data
from stedm_jax.settings.diffusion import Diffusion, Style
from stedm_jax.settings.grid import Grid
from stedm_jax.settings.guided import Guided
from stedm_jax.settings.key import key, nonnegative, positive, section
from stedm_jax.settings.latents import Latents
from stedm_jax.settings.report import Report
from stedm_jax.settings.section_reader import changed
from stedm_jax.settings.segmentation import Segmentation
from stedm_jax.settings.ssl import Ssl
from stedm_jax.settings.synthesis import Synthesis

STAGES = (
    "data",
    "autoencoder",
    "latents",
    "ssl",
    "guided",
    "judge",
    "generator",
    "synthesis",
    "quality",
    "segmentation",
    "report",
)
SAME_FOR_ARMS = ("arms", "judge", "seeds", "train", "border", "border_scored", "as_published_code")
"""Keys of config.segmentation that no arm may change; the borders say which pixels count."""


@section
class Mesh:
    """Devices; changes no result."""

    data: int = key(-1, "devices that a batch is divided by; -1: all that are there", low=-1)
    fsdp: int = positive(1, "devices that parameters are divided by")
    cpu_devices: int = nonnegative(0, "parts of a CPU; 0: one for each core")


@section
class Settings:
    """The whole experiment."""

    name: str = key("base", "letters, digits and underscores", changes=False)
    title: str = key("", "title of the report")
    seed: int = nonnegative(0, "all random numbers follow from it")
    dtype: str = key(
        "bfloat16",
        "of the computation; parameters, norms and losses stay float32",
        choices=("float32", "bfloat16"),
    )
    mesh: Mesh = key(Mesh(), "", changes=False)
    compile_cache: bool = key(True, "keeps compiled programs in the workdir", changes=False)
    stages: tuple[str, ...] = key(
        tuple(stage for stage in STAGES if stage not in ("ssl", "guided")),
        "what is run",
        choices=STAGES,
        changes=False,
    )
    data: Data = Data()
    autoencoder: Autoencoder = Autoencoder()
    latents: Latents = Latents()
    ssl: Ssl = Ssl()
    diffusion: Diffusion = Diffusion()
    guided: Guided = Guided()
    synthesis: Synthesis = Synthesis()
    segmentation: Segmentation = Segmentation()
    grid: Grid = Grid()
    report: Report = Report()

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The arms by name, without the judge."""
        return self.segmentation.arms

    def arm_entry(self, name: str) -> Arm:
        """An arm as the configuration describes it; "judge" is one. UserError: no such arm."""
        arms = {**self.arms, JUDGE: self.segmentation.judge}
        return _entry(arms, name, "segmentation.arms")

    def arm(self, name: str) -> Segmentation:
        """config.segmentation as it is for an arm.

        Raises:
          UserError: no such arm; or a change of a key that is not there, that is the same for all
            arms, or to a value that cannot be.
        """
        arm = self.arm_entry(name)
        changes = [*NETWORKS[arm.network].items(), *arm.changes]
        return changed(self.segmentation, "segmentation", changes, f"arm '{name}'", SAME_FOR_ARMS)

    def generator(self, name: str) -> Diffusion:
        """config.diffusion as it is for a generator; errors as `arm`."""
        entry, who = _entry(self.diffusion.generators, name, "diffusion.generators"), "generator"
        return changed(
            self.diffusion, "diffusion", entry.changes, f"{who} '{name}'", ("generators",)
        )

    def synthesis_set(self, name: str) -> Synthesis:
        """config.synthesis as it is for a set; errors as `arm`."""
        entry = _entry(self.synthesis.sets, name, "synthesis.sets")
        return changed(self.synthesis, "synthesis", entry.changes, f"set '{name}'", ("sets",))

    def style_of(self, set_name: str) -> Style:
        """How a set chooses style tiles: as its generator, or as config.diffusion where it has
        none; errors as `arm`."""
        generator = _entry(self.synthesis.sets, set_name, "synthesis.sets").generator
        return (self.generator(generator) if generator else self.diffusion).style

    def sets_of(self, arm_name: str) -> dict[str, float]:
        """Set -> its share of the synthetic tiles that an arm learns from; empty where it reads
        real tiles alone. Of an arm that chooses: all sets of those that it chooses from.

        Raises:
          UserError: no such arm or set, or the arm names none and there are several.
        """
        arm, sets = self.arm_entry(arm_name), self.synthesis.sets
        if arm.choose:
            found = (each for name in arm.choose for each in self.sets_of(name))
            return dict.fromkeys(found, 0.0)
        if arm.real == 1:
            return {}
        where = f"config.segmentation.arms.{arm_name}"
        if not (arm.set or arm.sets) and len(sets) > 1:
            raise UserError(
                f"The arm '{arm_name}' learns from synthetic tiles, and there are several sets "
                f"({', '.join(sets)}); name one, {where}.set, or several, {where}.sets."
            )
        shares = arm.set_shares or dict.fromkeys(sets, 1.0)
        if unknown := [name for name in shares if name not in sets]:
            key = "set" if arm.set else "sets"
            raise UserError(
                f"{where}.{key} is {getattr(arm, key)!r}, which names {', '.join(unknown)}; there "
                f"are {', '.join(sets)}."
            )
        return shares

    def reads_around(self, arm_name: str) -> bool:
        """Whether an arm needs the field around a tile."""
        if not self.arm_entry(arm_name).is_head:
            return False
        features = self.arm(arm_name).features
        return features.source != "vit" and features.guided and self.guided.guide.sees_around


def _entry(entries: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in entries:
        raise UserError(f"config.{where} has no '{name}'; there are {', '.join(entries)}.")
    return entries[name]
