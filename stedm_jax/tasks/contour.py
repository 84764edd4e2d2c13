"""The contour-aware network as a task: objects and their contours are learned, and put together
again (models/dcan.py).

Contours are those of areas of a foreground class in the mask, so that objects of a class need a
pixel between them, as the glands of GlaS have; rims beside unlabeled pixels are not learned. A
pixel is a core where the foreground has half of the probability or more and the contour has less
(equation 2 there). A contour covers `radius` + 1 pixels of its object, which the areas of cores are
given back.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, PyTree, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.models.dcan import THRESHOLD, auxiliary_weight, contour_target, dilate
from stedm_jax.models.functional import Functional
from stedm_jax.tasks.images import to_network
from stedm_jax.tasks.segmentation import SegmentationTask, cross_entropy, valid_pixels


def contours_of(
    mask: UInt8[Array, "b h w"], valid: Bool[Array, "b h w"], foreground: Sequence[int], radius: int
) -> tuple[UInt8[Array, "b h w"], Bool[Array, "b h w"]]:
    """1 near the rim of an object, else 0; and the pixels where that is known."""
    inside = jnp.isin(mask, jnp.array(foreground, jnp.uint8))
    objects = jnp.where(inside, mask.astype(jnp.int32) + 1, 0)
    known = valid & ~dilate(mask == VOID, radius + 1)
    return contour_target(objects, radius).astype(jnp.uint8), known


class ContourTask(SegmentationTask):
    """Task "segmentation" for the contour-aware network; equation (1) of models/dcan.py in place of
    the other loss.

    Scores of tiles are those of the objects, put together as whole images are, but for holes and
    small objects.
    """

    def build(self, dtype: DTypeLike) -> Functional:
        """The network. Raises UserError where no class lies between objects."""
        self.grow = self.config.model.dcan.radius + 1
        rest = sorted(set(range(len(self.colors))) - set(self.foreground))
        if not rest:
            raise UserError(
                "config.segmentation.model.kind is 'dcan', whose objects are areas of the "
                "foreground, and config.data.foreground names every class; leave out the one that "
                "lies between objects."
            )
        return super().build(dtype)

    def loss(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """Equation (1), and the cross-entropies of both branches."""
        out = self.network.apply(params, to_network(batch["image"]), train=True, key=key)
        mask, valid = batch["mask"], valid_pixels(batch["mask"], self.config.border)
        contours, known = contours_of(mask, valid, self.foreground, self.config.model.dcan.radius)
        ce = cross_entropy(out.objects, mask, valid)
        contour_ce = cross_entropy(out.contours, contours, known)
        levels = [
            cross_entropy(objects, mask, valid) + cross_entropy(rims, contours, known)
            for objects, rims in out.auxiliary
        ]
        total = ce + contour_ce + auxiliary_weight(step) * jnp.sum(jnp.stack(levels))
        return total, {"ce": ce, "contour_ce": contour_ce}

    def maps(
        self, params: PyTree, frozen: PyTree, image: UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w m"]:
        """Probabilities of the classes, and that of a contour as the last."""
        out = self.network.apply(params, to_network(image))
        contour = jax.nn.softmax(out.contours)[..., 1:]
        return jnp.concatenate([jax.nn.softmax(out.objects), contour], axis=-1)

    def decide(
        self, maps: Float[np.ndarray, "h w m"]
    ) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """The most probable class of each pixel, and the cores of objects."""
        classes = np.argmax(maps[..., :-1], axis=-1).astype(np.uint8)
        inside = maps[..., list(self.foreground)].sum(-1) >= THRESHOLD
        return classes, inside & (maps[..., -1] < THRESHOLD)

    def predict(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array]
    ) -> Int32[Array, "b h w"]:
        """Cores, grown, in their most probable class; elsewhere the most probable class that is not
        foreground."""
        maps = self.maps(params, frozen, batch["image"])
        classes, contour = maps[..., :-1], maps[..., -1]
        front = jnp.zeros(len(self.colors), bool).at[jnp.array(self.foreground)].set(True)
        inside = jnp.where(front[None, None, None], classes, 0.0)
        core = (inside.sum(-1) >= THRESHOLD) & (contour < THRESHOLD)
        object_class = jnp.argmax(inside, axis=-1)
        rest = jnp.argmax(jnp.where(front[None, None, None], -1.0, classes), axis=-1)
        return jnp.where(dilate(core, self.grow), object_class, rest).astype(jnp.int32)
