"""The settings of an experiment, and what is asked of sections together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.settings.arm_networks import JUDGE, NETWORKS
from stedm_jax.settings.autoencoder import Autoencoder
from stedm_jax.settings.data import Data
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.guided import Guided
from stedm_jax.settings.key import key, section
from stedm_jax.settings.latents import Latents
from stedm_jax.settings.read import changed, check, nearest
from stedm_jax.settings.report import Report
from stedm_jax.settings.segmentation import Arm, Segmentation
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
SAME_FOR_ARMS = ("arms", "judge", "seeds", "train", "border")
"""Keys of config.segmentation that no arm may change; border says which pixels are scored."""
SMALLEST_FOR_LPIPS = 31


@section
class Mesh:
    """Devices; changes no result."""

    data: int = key(-1, "devices that a batch is divided by; -1: all that are there", low=-1)
    fsdp: int = key(1, "devices that parameters are divided by", low=1)
    cpu_devices: int = key(0, "parts of a CPU; 0: one for each core", low=0)


@section
class Settings:
    """The whole experiment."""

    name: str = key("base", "letters, digits and underscores", changes=False)
    title: str = key("", "title of the report")
    seed: int = key(0, "all random numbers follow from it", low=0)
    dtype: str = key(
        "bfloat16",
        "of the computation; parameters, norms and losses stay float32",
        choices=("float32", "bfloat16"),
    )
    mesh: Mesh = key(Mesh(), "devices", changes=False)
    compile_cache: bool = key(True, "keeps compiled programs in the workdir", changes=False)
    stages: tuple[str, ...] = key(
        tuple(stage for stage in STAGES if stage not in ("ssl", "guided")),
        "what is run",
        choices=STAGES,
        changes=False,
    )
    data: Data = key(Data(), "tiles")
    autoencoder: Autoencoder = key(Autoencoder(), "autoencoder")
    latents: Latents = key(Latents(), "latents")
    ssl: Ssl = key(Ssl(), "self-supervised encoder")
    diffusion: Diffusion = key(Diffusion(), "denoiser")
    guided: Guided = key(Guided(), "guided denoiser")
    synthesis: Synthesis = key(Synthesis(), "synthetic tiles")
    segmentation: Segmentation = key(Segmentation(), "segmenters")
    report: Report = key(Report(), "report")

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The arms by name, without the judge."""
        return self.segmentation.arms

    def arm_entry(self, name: str) -> Arm:
        """An arm as the configuration describes it; "judge" is one. UserError: no such arm."""
        arms = {**self.arms, JUDGE: self.segmentation.judge}
        return _entry(arms, name, "arm", "config.segmentation.arms")

    def arm(self, name: str) -> Segmentation:
        """config.segmentation as it is for an arm.

        Raises:
          UserError: no such arm; or a change of a key that is not there, that is the same for all
            arms, or to a value that cannot be.
        """
        arm, who = self.arm_entry(name), f"arm '{name}'"
        changes = [*NETWORKS[arm.network].items(), *arm.changes]
        _keep(changes, SAME_FOR_ARMS, who, "arms")
        return changed(self.segmentation, changes, "config.segmentation", who)

    def generator(self, name: str) -> Diffusion:
        """config.diffusion as it is for a generator; errors as `arm`."""
        where = "config.diffusion"
        chosen = _entry(self.diffusion.generators, name, "generator", f"{where}.generators")
        _keep(chosen.changes, ("generators",), f"generator '{name}'", "generators")
        return changed(self.diffusion, chosen.changes, where, f"generator '{name}'")

    def synthesis_set(self, name: str) -> Synthesis:
        """config.synthesis as it is for a set; errors as `arm`."""
        where = "config.synthesis"
        chosen = _entry(self.synthesis.sets, name, "set", f"{where}.sets")
        _keep(chosen.changes, ("sets",), f"set '{name}'", "sets")
        return changed(self.synthesis, chosen.changes, where, f"set '{name}'")

    def set_of(self, arm_name: str) -> str:
        """Name of the set whose tiles an arm learns from; empty where it reads real tiles alone.

        Raises:
          UserError: no such arm or set, or the arm names none and there are several.
        """
        arm, sets = self.arm_entry(arm_name), self.synthesis.sets
        if arm.real == 1:
            return ""
        if not arm.set and len(sets) > 1:
            raise UserError(
                f"config.segmentation.arms.{arm_name} learns from synthetic tiles, and there are "
                f"the sets {', '.join(sets)}; name one as its 'set'."
            )
        name = arm.set or next(iter(sets), "")
        _entry(sets, name, "set", "config.synthesis.sets")
        return name

    def reads_around(self, arm_name: str) -> bool:
        """Whether an arm needs the field around a tile."""
        if not self.arm_entry(arm_name).is_head:
            return False
        features = self.arm(arm_name).features
        return features.source != "vit" and features.guided and self.guided.guide.sees_around

    def problems(self, where: str) -> Iterator[str]:
        """Keys of several sections that do not go together."""
        if not self.name.isidentifier():
            yield f"{where}.name is '{self.name}'; use letters, digits and underscores."
        yield from self._sizes(where)
        yield from self._sampling(where)
        yield from self._named(where)
        crop, baseline, ablation = self.autoencoder.crop, self.report.baseline, self.report.ablation
        if self.autoencoder.lpips and (crop or self.data.tile) < SMALLEST_FOR_LPIPS:
            yield (
                f"{where}.autoencoder.lpips: LPIPS needs images of {SMALLEST_FOR_LPIPS} px or "
                f"more, and {where}.autoencoder.crop={crop} (0: whole tiles) leaves less; use a "
                "larger crop, or autoencoder.lpips=''."
            )
        if self.latents.cache and "generator" not in self.stages:
            yield (
                f"{where}.latents.cache=True stores latents for the stage generator, which "
                f"{where}.stages does not name; set it False (guided.cache=True stores them for "
                "the stage guided)."
            )
        if baseline and baseline not in self.arms:
            yield (
                f"{where}.report.baseline is '{baseline}', which is no arm; there are "
                f"{', '.join(self.arms)}."
            )
        known = flatten(self.segmentation)
        if ablation and ablation not in known:
            yield (
                f"{where}.report.ablation is '{ablation}', which is no key of {where}.segmentation."
                f"{nearest(ablation, known)}"
            )

    def _sizes(self, where: str) -> Iterator[str]:
        """What networks divide the side of a tile by."""
        tile, halvings, border = self.data.tile, self.autoencoder.halvings, self.segmentation.border
        divisors = {
            "autoencoder.model": halvings,
            "diffusion.unet": halvings + len(self.diffusion.unet.multipliers) - 1,
            "segmentation.model": self.segmentation.model.halvings,
        }
        if "guided" in self.stages:
            divisors["guided.unet"] = halvings + len(self.guided.unet.multipliers) - 1
        for network, times in divisors.items():
            if tile % 2**times:
                yield (
                    f"{where}.data.tile={tile} must be a multiple of {2**times} for the networks "
                    f"of {where}.{network}, which halve a tile {times} times."
                )
        if 2 * border >= tile:
            yield (
                f"{where}.segmentation.border={border} leaves nothing of tiles of {tile} px "
                f"({where}.data.tile)."
            )

    def _sampling(self, where: str) -> Iterator[str]:
        """How the denoiser is trained, and how it is sampled."""
        diffusion, synthesis = self.diffusion, self.synthesis
        guidance, averages = synthesis.guidance, diffusion.train.ema
        low, high = guidance.layout_interval
        if diffusion.drop_layout == 1 and (
            low > guidance.interval[0] or high < guidance.interval[1]
        ):
            yield (
                f"{where}.diffusion.drop_layout is 1: a layout never stays without its style, as "
                f"it would outside {where}.synthesis.guidance.layout_interval; use a lower "
                "drop_layout, or a layout_interval as wide as the interval."
            )
        if synthesis.width and not (averages.snapshot_every and averages.tracks):
            yield (
                f"{where}.synthesis.weights is '{synthesis.weights}', which is combined from "
                "snapshots, but the training keeps none: set diffusion.train.ema.tracks=(0.05, "
                "0.10) and diffusion.train.ema.snapshot_every."
            )
        if synthesis.steps > diffusion.schedule.steps:
            yield (
                f"{where}.synthesis.steps is {synthesis.steps}; give at most the "
                f"{diffusion.schedule.steps} of {where}.diffusion.schedule.steps."
            )

    def _named(self, where: str) -> Iterator[str]:
        """Arms, generators and sets."""
        sets, generators = self.synthesis.sets, self.diffusion.generators
        named = {
            "segmentation.arms": self.arms,
            "diffusion.generators": generators,
            "synthesis.sets": sets,
        }
        for group, names in named.items():
            for name in names:
                if "/" in name or name in ("", ".", ".."):
                    yield f"{where}.{group} has '{name}', which is no name for a folder."
        if JUDGE in self.arms:
            yield f"{where}.segmentation.arms has '{JUDGE}', which is the name of the judge."
        for name, each in sets.items():
            if each.generator not in generators:
                yield (
                    f"{where}.synthesis.sets.{name}.generator is '{each.generator}'; there are "
                    f"{', '.join(generators)}."
                )
        if self.latents.cache and "generator" in self.stages:
            yield from self._sharing(where)

    def _sharing(self, where: str) -> Iterator[str]:
        """The cache of latents is one for all generators."""
        seen = {}
        for name in self.diffusion.generators:
            try:
                mine = self.generator(name)
            except UserError:  # `mistakes` has it
                continue
            seen[name] = mine.splits, mine.stain_jitter, mine.train.eval_every > 0
        if len({str(each) for each in seen.values()}) > 1:
            yield (
                f"{where}.latents.cache=True keeps one set of latents for the generators "
                f"{', '.join(seen)}, which differ in splits, stain_jitter or in whether they have "
                "train.eval_every; make these the same, or set latents.cache=False."
            )

    def _arm_problems(self, name: str) -> Iterator[str]:
        """What an arm would be refused for after hours."""
        arm, features, guided = self.arm_entry(name), self.arm(name).features, self.guided
        self.set_of(name)
        if self.reads_around(name):
            what = "the guide of its denoiser has a region token (config.guided.guide.tokens)"
            if arm.real < 1:
                yield (
                    f"it learns from synthetic tiles (real={arm.real:g}), but {what}, and "
                    "synthetic tiles have no field around them. Set its real=1.0."
                )
            if self.report.whole and "report" in self.stages:
                yield (
                    f"it cannot segment whole images (config.report.whole): {what}, which is made "
                    "of the field around each tile, and an image has no field around it at its "
                    "edge."
                )
        if not arm.is_head:
            return
        if "guided" not in self.stages:
            yield "it reads features of a guided denoiser, but config.stages does not name guided."
        if features.source != "ldm" and guided.guide.source == "none":
            yield (
                f"features.source is '{features.source}', which reads the guide's tokens, but "
                "config.guided.guide.source is 'none'."
            )
        if features.source == "vit":
            return
        if wrong := [str(t) for t in features.timesteps if t >= guided.schedule.steps]:
            yield (
                f"features.timesteps has {', '.join(wrong)}; give numbers from 0 to "
                f"{guided.schedule.steps - 1} (config.guided.schedule.steps - 1)."
            )
        divisor = 2 ** (self.autoencoder.halvings + len(guided.unet.multipliers) - 1)
        for scale in features.scales:
            if self.data.tile * scale % divisor:
                yield (
                    f"features.scales has {scale}, which makes tiles of {self.data.tile} px ones "
                    f"of {self.data.tile * scale:g} px; the autoencoder and the denoiser need a "
                    f"multiple of {divisor} px. Choose another scale or config.data.tile."
                )

    def mistakes(self) -> Iterator[str]:
        """All that is wrong with keys that do not go together, in each arm, generator and set."""
        base = list(check(self, "config"))
        yield from base
        for who, make in self._variants():
            try:
                found = list(make())
            except UserError as error:
                found = [str(error)]
            yield from (
                text if who in text else f"{who}: {text}" for text in found if text not in base
            )

    def _variants(self) -> Iterator[tuple[str, Callable[[], Iterable[str]]]]:
        def others(**sections: Any) -> Iterator[str]:
            return check(replace(self, **sections), "config")

        for name in (*self.arms, JUDGE):
            yield f"arm '{name}'", lambda name=name: others(segmentation=self.arm(name))
            yield f"arm '{name}'", lambda name=name: self._arm_problems(name)
        for name in self.diffusion.generators:
            yield f"generator '{name}'", lambda name=name: others(diffusion=self.generator(name))
        for name, each in self.synthesis.sets.items():
            yield (
                f"set '{name}'",
                lambda name=name, each=each: others(
                    synthesis=self.synthesis_set(name), diffusion=self.generator(each.generator)
                ),
            )


def _entry(known: Mapping[str, Any], name: str, what: str, where: str) -> Any:
    if name not in known:
        raise UserError(f"{where} has no {what} '{name}'; there are {', '.join(known)}.")
    return known[name]


def _keep(changes: Iterable[tuple[str, Any]], same: Iterable[str], who: str, what: str) -> None:
    for name, _ in changes:
        if name.split(".")[0] in same:
            raise UserError(f"The {who} changes '{name}', which is the same for all {what}.")
