"""Every task, made from the settings alone: without data and without weights.

Nothing is computed and nothing is compiled, since networks are shapes (`jax.eval_shape`) until
parameters are asked for. So the stages, the plan, the check before the first stage, the doctor and
the bench all build their tasks here, and what one of them refuses is refused by all. What lies
frozen below a task is its `abstract_frozen`.
"""

from collections.abc import Sequence
from dataclasses import replace

from jax.typing import DTypeLike

from stedm_jax.models.vit import ssl_size, vit_network, vit_size
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.names import FROZEN
from stedm_jax.settings.root import Settings
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.contour import ContourTask
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.tasks.features import Features
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.tasks.guided import GuidedTask, GuideEncoder
from stedm_jax.tasks.judged import Judge
from stedm_jax.tasks.latent_diffusion import LatentScale
from stedm_jax.tasks.pixel_head import PixelHeadTask
from stedm_jax.tasks.segmentation import SegmentationTask, Shown
from stedm_jax.tasks.ssl import SslTask


def build_autoencoder(settings: Settings, dtype: DTypeLike, patients: int = 0) -> AutoencoderTask:
    """The first stage; with `patients`, it is scored patient by patient."""
    return AutoencoderTask(settings.autoencoder, dtype, patients)


def build_generator(
    settings: Settings,
    name: str,
    first: FirstStage,
    colors: Sequence[tuple[int, int, int]],
    dtype: DTypeLike,
    scale: LatentScale | None = None,
    judge: Judge | None = None,
) -> DiffusionTask:
    """The denoiser that one of diffusion.generators describes.

    Args:
      settings: of the experiment.
      name: of the generator.
      first: the first stage.
      colors: of the classes.
      dtype: of the computation.
      scale: of the latents; None: they are taken as they are.
      judge: a segmenter that scores how well samples keep to their layouts; None: an abstract one,
        where the denoiser learns from it.
    """
    scale, section = scale or LatentScale.unit(first.channels), settings.generator(name)
    if section.style.aggregation == "svit" and not section.style.svit_side:
        style = replace(section.style, svit_side=settings.data.tile)
        section = replace(section, style=style)
    if judge is None and section.judge.used:
        judge = build_segmenter(settings, JUDGE, Shown(colors, side=settings.data.tile), 1, dtype)
    return DiffusionTask(section, first, scale, colors, dtype, judge)


def build_ssl(settings: Settings, dtype: DTypeLike) -> SslTask:
    """The encoder that learns without labels."""
    return SslTask(settings.ssl, dtype)


def build_guide(settings: Settings, dtype: DTypeLike) -> GuideEncoder | None:
    """The encoder that guided.guide.source names; None where it is "none"."""
    source = settings.guided.guide.source
    if source == "none":
        return None
    ours = source == "ssl"
    size = ssl_size(settings.ssl) if ours else vit_size(source.removeprefix(FROZEN))
    return GuideEncoder(vit_network(size, dtype), size)


def build_guided(
    settings: Settings, first: FirstStage, dtype: DTypeLike, scale: LatentScale | None = None
) -> GuidedTask:
    """The guided denoiser with its guide; arguments as for `build_generator`."""
    scale = scale or LatentScale.unit(first.channels)
    return GuidedTask(settings.guided, first, scale, build_guide(settings, dtype), dtype)


def build_segmenter(
    settings: Settings,
    arm: str,
    shown: Shown,
    patients: int,
    dtype: DTypeLike,
    below: GuidedTask | None = None,
) -> SegmentationTask:
    """What an arm, or the judge, trains: a segmenter, or a head on features.

    Args:
      settings: of the experiment.
      arm: its name.
      shown: the tiles.
      patients: most that are scored at once.
      dtype: of the computation.
      below: the denoiser that a head reads; None: an abstract one.

    Raises:
      UserError: blocks that the denoiser does not have; a task that does not go with the classes.
    """
    section = settings.arm(arm)
    if settings.arm_entry(arm).is_head:
        below = below or build_guided(settings, build_autoencoder(settings, dtype), dtype)
        features = Features(section.features, below)
        return PixelHeadTask(section, shown, patients, dtype, features)
    kind = ContourTask if section.model.kind == "dcan" else SegmentationTask
    return kind(section, shown, patients, dtype)
