"""How good the images of some orders are: layout IoU, style error and kernel distance."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from stedm_jax.evaluation.synthesis_quality.kernel_distance import kid
from stedm_jax.evaluation.synthesis_quality.layout_iou import LayoutIou
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment
from stedm_jax.evaluation.synthesis_quality.style_fidelity import StyleFidelity
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encoders import Encoder, encode
from stedm_jax.experiment.measured_set import HELD_OUT, style_tiles
from stedm_jax.experiment.orders import Order

Images = UInt8[np.ndarray, "n h w 3"]
MOST = 2_000
"""Most real tiles whose features are compared."""


@dataclass(frozen=True)
class Scores:
    """Of a set of images; NaN without what measures it.

    Attributes:
      layout_iou: of the judge, mean over the patients of the layouts.
      style_error: stain error, mean over the style patients, optical density.
      kid: kernel distance to held-out patients.
      kid_low, kid_high: its 95 % interval over these.
    """

    layout_iou: float
    style_error: float
    kid: float
    kid_low: float
    kid_high: float


class Scorer:
    """Scores any images of the same orders.

    Args:
      context, learned: of the run, whose judge there has to be (experiment/learned.py).
      orders: of the images.
      masks: their layouts.
      split: of the style patients.
      encoder: whose features the kernel distance compares.
    """

    def __init__(
        self,
        context: Context,
        learned: Any,
        orders: Sequence[Order],
        masks: UInt8[np.ndarray, "n h w"],
        split: str,
        encoder: Encoder,
    ):
        self.context, self.orders, self.masks, self.encoder = context, orders, masks, encoder
        self.judge = _confusions(*learned.judge)
        made = [replace(each.layout, style_patient=each.style_patient) for each in orders]
        self.real = list(style_tiles(made, context.rows(split), self._read, context.seed))
        rows = [row for each in HELD_OUT for row in context.rows(each)]
        rng = np.random.default_rng(0)
        kept = [rows[i] for i in sorted(rng.permutation(len(rows))[:MOST])]
        self.whose = [row.patient for row in kept]
        self.held_out = self._features(np.stack([self._read(row) for row in kept]))

    def __call__(self, images: Images) -> Scores:
        """Of one image for each order."""
        distance, limits = kid(self._features(images), self.held_out, self.whose)
        return Scores(self._layout_iou(images), self._style_error(images), distance, *limits)

    def _read(self, row: Any) -> np.ndarray:
        return self.context.reader.read(row)[0]

    def _features(self, images: Images) -> Float[np.ndarray, "n d"]:
        return encode(self.encoder, lambda some: images[some], len(images))

    def _layout_iou(self, images: Images) -> float:
        found: dict[str, Any] = defaultdict(int)
        for image, mask, order in zip(images, self.masks, self.orders, strict=True):
            found[order.layout.patient] += self.judge(image, mask)
        judgment = Judgment({"synthetic": found}, self.context.classes.foreground)
        return LayoutIou().result(judgment).numbers["layout_iou"]

    def _style_error(self, images: Images) -> float:
        metric = StyleFidelity()
        for image, mask, order in zip(images, self.masks, self.orders, strict=True):
            metric.update(Example(image, mask, (), self._read, order.style_patient))
        for tile in self.real:
            metric.update_real(tile)
        return metric.result(Judgment()).numbers["style_error"]


def _confusions(
    task: Any, params: Any
) -> Callable[[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]], Int[np.ndarray, "c c"]]:
    """Confusion matrix of the judge on an image."""

    @jax.jit
    def confusion(params: Any, image: jax.Array, mask: jax.Array) -> jax.Array:
        one = {"image": image[None], "mask": mask[None], "weight": jnp.ones(1)}
        one["patient"] = jnp.zeros(1, jnp.int32)
        return task.eval_step(params, {}, one, jax.random.key(0))["confusion"][0]

    return lambda image, mask: np.asarray(confusion(params, image, mask)).astype(np.int64)
