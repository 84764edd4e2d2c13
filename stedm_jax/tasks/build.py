"""Every task, made from the settings alone: without data and without weights.

Nothing is computed and nothing is compiled, since networks are shapes (`jax.eval_shape`) until
somebody asks for parameters. So the stages, the plan, the check before the first stage, the doctor
and the bench all build their tasks here, and a task that one of them refuses is refused by all.
What lies frozen below a task is `abstract_frozen` of the task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.typing import DTypeLike

from stedm_jax.common.errors import UserError
from stedm_jax.models.build import build_ssl_encoder, ssl_size
from stedm_jax.models.functional import Functional
from stedm_jax.models.style import FROZEN
from stedm_jax.models.vit import ViT
from stedm_jax.models.vit_sizes import ViTSize, vit_size
from stedm_jax.settings.arm_networks import JUDGE, NETWORKS
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.contour import ContourTask
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.tasks.features import Features
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.latent_diffusion import LatentScale
from stedm_jax.tasks.pixel_head import PixelHeadTask
from stedm_jax.tasks.segmentation import SegmentationTask
from stedm_jax.tasks.ssl import SslTask

HEADS = tuple(name for name, changes in NETWORKS.items() if "features.source" in changes)
"""The networks of arms that are a head on features."""
WEIGHTS = ("trained", "random")
"""What the denoiser below a head holds (segmentation.features.weights)."""


@dataclass(frozen=True)
class Shown:
    """What a segmenter has to know about the tiles.

    Attributes:
      colors: of the classes.
      foreground: numbers of the classes that the scores are about.
      side: of a tile, in pixels.
    """

    colors: Sequence[tuple[int, int, int]] = ((0, 0, 0), (255, 255, 255))
    foreground: Sequence[int] = (1,)
    side: int = 256


@dataclass(frozen=True)
class GuideEncoder:
    """A Vision Transformer whose embeddings guide a denoiser; it is never trained with it."""

    network: Functional
    size: ViTSize


def build_autoencoder(settings: Any, dtype: DTypeLike, patients: int = 0) -> AutoencoderTask:
    """The first stage; with `patients`, it is scored patient by patient."""
    return AutoencoderTask(settings.autoencoder, dtype, patients)


def build_generator(
    settings: Any,
    name: str,
    first: AutoencoderTask,
    colors: Sequence[tuple[int, int, int]],
    dtype: DTypeLike,
    scale: LatentScale | None = None,
    judge: SegmentationTask | None = None,
) -> DiffusionTask:
    """The denoiser that one of diffusion.generators describes.

    Args:
      settings: of the experiment.
      name: of the generator.
      first: the first stage.
      colors: of the classes.
      dtype: of the computation.
      scale: of the latents; None: they are taken as they are.
      judge: a segmenter that scores how well samples keep to their layouts.
    """
    scale = scale or LatentScale.unit(first.channels)
    return DiffusionTask(settings.generator(name), first, scale, colors, dtype, judge)


def build_ssl(settings: Any, dtype: DTypeLike) -> SslTask:
    """The encoder that learns without labels."""
    return SslTask(settings.ssl, dtype)


def build_guide(settings: Any, dtype: DTypeLike) -> GuideEncoder | None:
    """The encoder that guided.guide.source names; None where it is "none"."""
    source = settings.guided.guide.source
    if source == "none":
        return None
    if source == "ssl":
        return GuideEncoder(build_ssl_encoder(settings.ssl, dtype=dtype), ssl_size(settings.ssl))
    if not source.startswith(FROZEN):
        raise UserError(
            f"config.guided.guide.source is {source!r}; valid are ssl, none, or {FROZEN}NAME of a "
            "Vision Transformer."
        )
    size = vit_size(source.removeprefix(FROZEN))
    return GuideEncoder(Functional(lambda rngs: ViT(size, dtype=dtype, rngs=rngs)), size)


def build_guided(
    settings: Any, first: AutoencoderTask, dtype: DTypeLike, scale: LatentScale | None = None
) -> GuidedTask:
    """The guided denoiser with its guide; arguments as for `build_generator`."""
    guide = build_guide(settings, dtype)
    network, width = (guide.network, guide.size.embedding_dim) if guide else (None, 0)
    scale = scale or LatentScale.unit(first.channels)
    return GuidedTask(settings.guided, first, scale, network, width, dtype)


def sees_around(guided: Any) -> bool:
    """Whether the guide of config.guided reads the field around a tile, so that batches need it."""
    guide = guided.guide
    return guide.source != "none" and "region" in guide.tokens and not guide.region_width


def is_head(settings: Any, arm: str) -> bool:
    """Whether an arm (or the judge) trains a head on features."""
    section = settings.segmentation
    return (section.judge if arm == JUDGE else section.arms[arm]).network in HEADS


def reads_around(settings: Any, arm: str) -> bool:
    """Whether the batches of an arm need the field around a tile."""
    if not is_head(settings, arm):
        return False
    features = settings.arm(arm).features
    return features.source != "vit" and features.guided and sees_around(settings.guided)


def build_segmenter(
    settings: Any,
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
      UserError: features that there are not.
    """
    section = settings.arm(arm)
    shared = (section, shown.colors, shown.foreground, patients, dtype)
    if not is_head(settings, arm):
        kind = ContourTask if section.model.kind == "dcan" else SegmentationTask
        return kind(*shared)
    if section.features.weights not in WEIGHTS:
        raise UserError(
            f"segmentation.features.weights is '{section.features.weights}'; valid are "
            f"{', '.join(WEIGHTS)}."
        )
    below = below or build_guided(settings, build_autoencoder(settings, dtype), dtype)
    guide = build_guide(settings, dtype)
    features = Features(section.features, below, shown.side, guide.size.width if guide else 0)
    return PixelHeadTask(*shared, features)
