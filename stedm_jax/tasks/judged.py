"""What a denoiser learns from the judge, a segmenter that is trained before it and stays as it is.

Layouts of tiles that have none: the classes that the judge sees. Otherwise only annotated patients
have layouts, and a layout says "annotated stain".

Loss of layouts (Li et al. 2024, ControlNet++): at the lowest noise levels one step gives the clean
image, and the judge's cross-entropy there says how well it keeps to its layout l:

    L = mean over images with (t + 1) / T <= below of CE(judge(decode(x_0(z_t, t, l))), l)   (1)

Decoding costs much, so only a share `below` of the batch, that with the lowest levels, is decoded.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, UInt8

from stedm_jax.common.labels import VOID
from stedm_jax.models.functional import Functional
from stedm_jax.settings.diffusion import Judged
from stedm_jax.tasks.images import to_network

See = Callable[[Array], Array]
"""The judge with its parameters: `Judge.log_classes`."""


@runtime_checkable
class Judge(Protocol):
    """A segmenter that scores how well samples keep to their layouts.

    Attributes:
      network: its shapes.
    """

    network: Functional

    @property
    def foreground(self) -> Sequence[int]:
        """Numbers of the classes that the score is about."""
        ...

    def eval_step(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Its confusion matrix for each patient, under "confusion"."""
        ...

    def log_classes(
        self, params: PyTree, image: Float[Array, "b h w 3"]
    ) -> Float[Array, "b h w k"]:
        """Log probabilities of the classes in images in [-1, 1]."""
        ...


def with_seen(
    see: See, config: Judged, batch: dict[str, Array], key: PRNGKeyArray
) -> UInt8[Array, "b h w"]:
    """The masks of a batch, in which a share of the tiles without labels have the classes that the
    judge sees, where it is sure."""
    mask = batch["mask"]
    logp = jax.lax.stop_gradient(see(to_network(batch["image"])))
    sure = logp.max(-1) >= jnp.log(jnp.maximum(config.sure, 1e-9))
    seen = jnp.where(sure, jnp.argmax(logp, axis=-1), VOID).astype(jnp.uint8)
    chosen = jax.random.bernoulli(key, config.layouts, mask.shape[:1]) & unlabelled(mask)
    return jnp.where(chosen[:, None, None], seen, mask)


def unlabelled(mask: UInt8[Array, "b h w"]) -> Bool[Array, " b"]:
    """Tiles without any label."""
    return (mask == VOID).all((1, 2))


def layout_loss(
    see: See,
    decode: Callable[[Array], Array],
    clean: Float[Array, "b hs ws c"],
    mask: UInt8[Array, "b h w"],
    level: Float[Array, " b"],
    below: float,
) -> Float[Array, ""]:
    """Equation 1.

    Args:
      see: log probabilities of the classes in images, by the judge.
      decode: images in about [-1, 1] of scaled latents.
      clean: predicted latents.
      mask: layouts that the denoiser was given.
      level: noise levels as shares of all, in (0, 1].
      below: up to which level images count, and which share of them is decoded.
    """
    most = max(1, round(below * len(mask)))
    lowest = jax.lax.top_k(-level, most)[1]
    logp = see(decode(clean[lowest]))
    labels, known = mask[lowest], (mask[lowest] != VOID).astype(jnp.float32)
    wanted = jnp.where(labels == VOID, 0, labels).astype(jnp.int32)
    picked = jnp.take_along_axis(logp, wanted[..., None], axis=-1)[..., 0]
    pixels = known.sum((1, 2))
    losses = -(picked * known).sum((1, 2)) / jnp.maximum(pixels, 1.0)
    counted = ((level[lowest] <= below) & (pixels > 0)).astype(jnp.float32)
    return (losses * counted).sum() / jnp.maximum(counted.sum(), 1.0)
