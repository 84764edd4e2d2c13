"""What is asked of sections together, and of every arm, generator and set with its changes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from stedm_jax.common.errors import UserError
from stedm_jax.common.text import nearest
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.methods import ADAIN, ADAIN_KEY, DENOISER, ignored
from stedm_jax.settings.root import Settings
from stedm_jax.settings.section_reader import check
from stedm_jax.settings.synthesis import Guidance

SMALLEST_FOR_LPIPS = 31


def mistakes(settings: Settings) -> Iterator[str]:
    """All keys that do not go together, each as a sentence."""
    base = [*_names(settings), *_all(settings)]
    yield from base
    variants: list[tuple[str, Callable[[Settings, str], Iterator[str]], str]] = [
        *(("arm", _arm, name) for name in (*settings.arms, JUDGE)),
        *(("generator", _generator, name) for name in settings.diffusion.generators),
        *(("set", _set, name) for name in settings.synthesis.sets),
    ]
    for what, problems, name in variants:
        try:
            found = list(problems(settings, name))
        except UserError as error:
            yield str(error)
        else:
            yield from (f"The {what} '{name}': {text}" for text in found if text not in base)


def _all(settings: Settings) -> Iterator[str]:
    yield from check(settings, "config")
    yield from _sizes(settings)
    yield from _sampling(settings)
    yield from _report(settings)
    if settings.guided.cache and settings.grid.draws:
        yield (
            "config.guided.cache=True keeps what is made of tiles by their packed splits, and "
            "config.grid.draws change these; set guided.cache=False."
        )
    crop, tile = settings.autoencoder.crop, settings.data.tile
    if settings.autoencoder.lpips and (crop or tile) < SMALLEST_FOR_LPIPS:
        yield (
            f"config.autoencoder.lpips: LPIPS needs images of {SMALLEST_FOR_LPIPS} px or more, and "
            f"config.autoencoder.crop={crop} (0: whole tiles) leaves less; use a larger crop, or "
            "autoencoder.lpips=''."
        )
    if settings.latents.cache and "generator" not in settings.stages:
        yield (
            "config.latents.cache=True stores latents for the stage generator, which config.stages "
            "does not name; set it False (guided.cache=True stores them for the stage guided)."
        )


def _sizes(settings: Settings) -> Iterator[str]:
    """What networks divide the side of a tile by."""
    tile, first = settings.data.tile, settings.autoencoder.halvings
    halvings = {
        "autoencoder.model": first,
        "diffusion.unet": first + len(settings.diffusion.unet.multipliers) - 1,
        "segmentation.model": settings.segmentation.model.halvings,
    }
    if "guided" in settings.stages:
        halvings["guided.unet"] = first + len(settings.guided.unet.multipliers) - 1
    for network, times in halvings.items():
        if tile % 2**times:
            yield (
                f"config.data.tile={tile} must be a multiple of {2**times} for the networks of "
                f"config.{network}, which halve a tile {times} times."
            )
    style = settings.diffusion.style
    if style.used and style.aggregation == "svit" and (tile % 8 or style.svit_side % 8):
        yield (
            f"config.data.tile={tile} and config.diffusion.style.svit_side={style.svit_side} must "
            "be multiples of 8, the side of a patch of svit."
        )
    for name in ("border", "border_scored"):
        border = getattr(settings.segmentation, name)
        if 2 * border >= tile:
            yield (
                f"config.segmentation.{name}={border} leaves nothing of tiles of {tile} px "
                "(config.data.tile)."
            )


def _sampling(settings: Settings) -> Iterator[str]:
    """How the denoiser is trained, and how it is sampled."""
    diffusion, synthesis = settings.diffusion, settings.synthesis
    guidance, averages = synthesis.guidance, diffusion.train.ema
    unlabelled = any(share for split, share in diffusion.splits.items() if split != "train")
    if guidance.on in ("both", "separate") and not (diffusion.drop_layout or unlabelled):
        yield (
            f"config.synthesis.guidance.on is '{guidance.on}', but the denoiser never learns "
            "without a layout: set diffusion.drop_layout above 0, or guidance.on='style'."
        )
    if guidance.on == "both" and diffusion.style.used and not diffusion.style.drop:
        yield (
            "config.synthesis.guidance.on is 'both', but the denoiser never learns without a "
            "style: set diffusion.style.drop above 0, or guidance.on='separate' with scale=1.0."
        )
    yield from _judged(settings)
    if synthesis.width is not None and not (averages.snapshot_every and averages.tracks):
        yield (
            f"config.synthesis.weights is '{synthesis.weights}', which is combined from snapshots, "
            "but the training keeps none: set diffusion.train.ema.tracks=(0.05, 0.10) and "
            "diffusion.train.ema.snapshot_every."
        )


def _weaker(settings: Settings, generator: str, guidance: Guidance) -> Iterator[str]:
    """The generator that a set of another one is guided by."""
    other = guidance.weaker_generator
    others = [name for name in settings.diffusion.generators if name != generator]
    if not other:
        return
    if other not in others:
        yield (
            f"config.synthesis.guidance.weights is '{guidance.weights}'; the generators besides "
            f"'{generator}' in config.diffusion.generators are: {', '.join(others) or 'none'}."
        )
        return
    first, second = settings.generator(generator), settings.generator(other)
    for key in ("prediction", "schedule"):
        if getattr(first, key) != getattr(second, key):
            yield (
                f"config.synthesis.guidance.weights is '{guidance.weights}', but the generators "
                f"'{generator}' and '{other}' differ in diffusion.{key}, and what they predict "
                "cannot be compared; train them with the same."
            )


def _judged(settings: Settings) -> Iterator[str]:
    """A denoiser that learns from the judge."""
    if not settings.diffusion.judge.used:
        return
    begin = "config.diffusion.judge has layouts or a weight above 0, "
    if "judge" not in settings.stages:
        yield f"{begin}but config.stages does not name judge; add it."
    if settings.arm(JUDGE).model.kind == "dcan":
        yield f"{begin}but the judge is a dcan, whose objects teach nothing; choose another kind."
    if settings.latents.cache and settings.diffusion.judge.layouts:
        yield (
            "config.diffusion.judge.layouts shows images to the judge, and with "
            "config.latents.cache=True these are not read; set one of the two to 0 or False."
        )


def _report(settings: Settings) -> Iterator[str]:
    baseline, ablation = settings.report.baseline, settings.report.ablation
    if baseline and baseline not in settings.arms:
        yield (
            f"config.report.baseline is '{baseline}', which is no arm; there are "
            f"{', '.join(settings.arms)}.{nearest(baseline, settings.arms)}"
        )
    for key in ("ours", "rivals"):
        for arm in getattr(settings.report, key):
            if arm not in settings.arms:
                there = ", ".join(settings.arms)
                yield (
                    f"config.report.{key} names '{arm}', which is no arm; there are {there}."
                    f"{nearest(arm, settings.arms)}"
                )
    known = flatten(settings.segmentation)
    if ablation and ablation not in known:
        yield (
            f"config.report.ablation is '{ablation}', which is no key of config.segmentation."
            f"{nearest(ablation, known)}"
        )


def _names(settings: Settings) -> Iterator[str]:
    """Names of the run, and of arms, generators and sets, which are folders."""
    if not settings.name.isidentifier():
        yield f"config.name is '{settings.name}'; use letters, digits and underscores."
    named = {
        "segmentation.arms": settings.arms,
        "diffusion.generators": settings.diffusion.generators,
        "synthesis.sets": settings.synthesis.sets,
    }
    for group, names in named.items():
        for name in names:
            if not name or set("/.@") & set(name):
                yield f"config.{group} has '{name}', which is no name; use no dots, slashes or @."
    if JUDGE in settings.arms:
        yield f"config.segmentation.arms has '{JUDGE}', which is the name of the judge."


def _choice(settings: Settings, name: str) -> Iterator[str]:
    """Of an arm that takes one of others."""
    options = settings.arm_entry(name).choose
    where = f"config.segmentation.arms.{name}.choose"
    if name == JUDGE:
        yield "it is the judge, which has to be trained; set config.segmentation.judge.choose=()."
    known = {each: settings.arms.get(each) for each in options}
    wrong = [each for each, arm in known.items() if arm is None or arm.choose]
    if wrong:
        there = ", ".join(each for each, arm in settings.arms.items() if not arm.choose)
        yield f"{where} names {', '.join(wrong)}; arms that are trained are {there}."
    elif settings.arm_entry(name).normalize:
        if any(arm and arm.is_head for arm in known.values()):
            yield f"{where} names a head on features; normalize is for networks of their own."
    elif not any(arm and arm.real == 1 for arm in known.values()):
        yield f"{where} names no arm with real=1, to be kept where no other convinces; add one."


def _arm(settings: Settings, name: str) -> Iterator[str]:
    yield from _all(replace(settings, segmentation=settings.arm(name)))
    if name != JUDGE:
        yield from settings.arm_entry(name).problems(f"config.segmentation.arms.{name}")
    if settings.arm_entry(name).choose and (found := list(_choice(settings, name))):
        yield from found
        return
    settings.sets_of(name)
    arm, features, guided = settings.arm_entry(name), settings.arm(name).features, settings.guided
    if 0 < arm.then_real >= (steps := settings.segmentation.train.steps):
        yield (
            f"its then_real is {arm.then_real}, but config.segmentation.train.steps={steps} leaves "
            "no step before; give a smaller then_real, or real=1.0."
        )
    if arm.reject and JUDGE not in settings.stages:
        yield f"its reject is {arm.reject:g}, which needs the judge; name it in config.stages."
    if arm.reject and settings.arm(JUDGE).model.kind == "dcan":
        yield (
            f"its reject is {arm.reject:g}, which needs the probability of each class, and the "
            "judge is a dcan; choose another config.segmentation.judge.network, or reject=0."
        )
    if settings.reads_around(name):
        region = "the guide of its denoiser has a region token (config.guided.guide.tokens)"
        if arm.real < 1:
            yield (
                f"it learns from synthetic tiles (real={arm.real:g}), but {region}, and synthetic "
                "tiles have no field around them. Set its real=1.0."
            )
        if settings.report.whole and "report" in settings.stages:
            yield (
                f"it cannot segment whole images (config.report.whole): {region}, which is made of "
                "the field around each tile, and an image has no field around it at its edge."
            )
    if arm.is_head and "guided" not in settings.stages:
        yield "it reads features of a guided denoiser, but config.stages does not name guided."
    if arm.is_head and features.source != "ldm" and guided.guide.source == "none":
        yield (
            f"features.source is '{features.source}', which reads the guide's tokens, but "
            "config.guided.guide.source is 'none'."
        )
    if arm.is_head and features.source != "vit":
        yield from _features(settings, name)


def _features(settings: Settings, name: str) -> Iterator[str]:
    """Features of the guided denoiser."""
    features, guided, tile = settings.arm(name).features, settings.guided, settings.data.tile
    if wrong := [str(t) for t in features.timesteps if t >= guided.schedule.steps]:
        yield (
            f"features.timesteps has {', '.join(wrong)}; give numbers from 0 to "
            f"{guided.schedule.steps - 1} (config.guided.schedule.steps - 1)."
        )
    divisor = 2 ** (settings.autoencoder.halvings + len(guided.unet.multipliers) - 1)
    for scale in features.scales:
        if tile * scale % divisor:
            yield (
                f"features.scales has {scale}, which makes tiles of {tile} px ones of "
                f"{tile * scale:g} px; the autoencoder and the denoiser need a multiple of "
                f"{divisor} px. Choose another scale or config.data.tile."
            )


def _generator(settings: Settings, name: str) -> Iterator[str]:
    mine, other = settings.generator(name), settings.diffusion
    yield from _all(replace(settings, diffusion=mine))
    if not settings.latents.cache:
        return
    same = {
        "splits": mine.splits == other.splits,
        "stain_jitter": mine.stain_jitter == other.stain_jitter,
        "train.eval_every": (mine.train.eval_every > 0) == (other.train.eval_every > 0),
    }
    if wrong := [name for name, equal in same.items() if not equal]:
        yield (
            f"its {', '.join(wrong)} and that of config.diffusion differ, but "
            "config.latents.cache=True keeps one set of latents for all generators; make them the "
            "same, or set latents.cache=False."
        )


def _set(settings: Settings, name: str) -> Iterator[str]:
    entry, at = settings.synthesis.sets[name], f"config.synthesis.sets.{name}"
    synthesis, generators = settings.synthesis_set(name), ", ".join(settings.diffusion.generators)
    if entry.method != DENOISER:
        yield from _all(replace(settings, synthesis=synthesis))
        if entry.generator:
            yield (
                f"{at}.generator is '{entry.generator}', but the method '{entry.method}' uses no "
                "generator; remove it."
            )
        if entry.method == ADAIN and not synthesis.adain:
            yield (
                f"config.{ADAIN_KEY} is empty, and the method 'adain' of {at} needs the published "
                "encoder and decoder: name a folder of converted weights, or adain-vgg19 (python "
                "-m stedm_jax.convert list); latent_adain needs none."
            )
        for key, _ in entry.changes:
            if key.split(".")[0] in ignored(entry.method):
                yield f"{at}.changes has '{key}', which the method '{entry.method}' does not read."
    elif entry.generator in settings.diffusion.generators:
        diffusion = settings.generator(entry.generator)
        yield from _all(replace(settings, diffusion=diffusion, synthesis=synthesis))
        yield from synthesis.start_problems("config.synthesis")
        yield from _weaker(settings, entry.generator, synthesis.guidance)
    else:
        yield f"{at}.generator is '{entry.generator}'; there are {generators}."
