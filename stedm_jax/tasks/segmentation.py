"""The segmenter: 0.1 cross-entropy + 0.9 Dice over the foreground classes (STEDM); void pixels
count nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, PyTree, UInt8

from stedm_jax.common.labels import VOID
from stedm_jax.evaluation.confusion import foreground_scores
from stedm_jax.models.batch_norm import running_stats
from stedm_jax.models.functional import Functional
from stedm_jax.models.named_networks import SEGMENTERS, network
from stedm_jax.settings.names import MIT
from stedm_jax.settings.segmentation import Segmentation, SegmenterModel
from stedm_jax.tasks.images import colorize, image_rows, to_network
from stedm_jax.training.task import STATE

DICE_EPSILON = 0.01


def valid_pixels(mask: UInt8[Array, "b h w"], border: int) -> Bool[Array, "b h w"]:
    """Pixels that count: labeled, and farther than `border` pixels from the edge."""
    valid = mask != VOID
    if border:
        inside = jnp.zeros(mask.shape[1:], bool).at[border:-border, border:-border].set(True)
        valid = valid & inside[None]
    return valid


def cross_entropy(
    logits: Float[Array, "b h w k"], mask: UInt8[Array, "b h w"], valid: Bool[Array, "b h w"]
) -> Float[Array, ""]:
    """Mean cross-entropy over the pixels that count; 0 where there are none."""
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    labels = jnp.where(valid, mask, 0).astype(jnp.int32)
    picked = jnp.take_along_axis(logp, labels[..., None], axis=-1)[..., 0]
    count = valid.sum().astype(jnp.float32)
    return -jnp.sum(jnp.where(valid, picked, 0.0)) / jnp.maximum(count, 1.0)


def dice_loss(
    logits: Float[Array, "b h w k"],
    mask: UInt8[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    foreground: Sequence[int],
    absent: bool = False,
) -> Float[Array, ""]:
    """1 - soft Dice over the whole batch, averaged over the foreground classes that are present in
    it.

    A class of which the batch has no pixel takes part in cross-entropy only; with `absent`, as in
    the code released with STEDM, it counts like the others, and costs nearly 1.
    """
    probability = jax.nn.softmax(logits.astype(jnp.float32))
    losses, present = [], []
    for number in foreground:
        truth = ((mask == number) & valid).astype(jnp.float32)
        guess = jnp.where(valid, probability[..., number], 0.0)
        overlap, total = jnp.sum(truth * guess), truth.sum() + guess.sum()
        losses.append(1.0 - (2.0 * overlap + DICE_EPSILON) / (total + DICE_EPSILON))
        present.append(((truth.sum() > 0) | absent).astype(jnp.float32))
    weight = jnp.stack(present)
    return jnp.sum(jnp.stack(losses) * weight) / jnp.maximum(weight.sum(), 1.0)


def patient_confusion(
    prediction: Int32[Array, "b h w"],
    mask: UInt8[Array, "b h w"],
    valid: Bool[Array, "b h w"],
    patient: Int32[Array, " b"],
    patients: int,
    classes: int,
) -> Int32[Array, "p k k"]:
    """Counts of pixels by patient, true class and predicted class."""
    cell = (patient[:, None, None] * classes + mask.astype(jnp.int32)) * classes + prediction
    cells = patients * classes * classes
    cell = jnp.where(valid, cell, cells)
    return jnp.bincount(cell.ravel(), length=cells + 1)[:-1].reshape(patients, classes, classes)


@dataclass(frozen=True)
class Shown:
    """What a segmenter has to know about the tiles.

    Attributes:
      colors: of the classes.
      foreground: numbers of the classes that Dice and the scores are about.
      side: of a tile, in pixels.
    """

    colors: Sequence[tuple[int, int, int]] = ((0, 0, 0), (255, 255, 255))
    foreground: Sequence[int] = (1,)
    side: int = 256


class SegmentationTask:
    """Task "segmentation"; batches hold image (b, h, w, 3) and mask (b, h, w), uint8.

    Args:
      config: config.segmentation.
      shown: the tiles.
      patients: number of patients of the data that is evaluated.
      dtype: of the computation.
    """

    name = "segmentation"
    grow = 0

    def __init__(self, config: Segmentation, shown: Shown, patients: int, dtype: DTypeLike):
        self.config, self.patients = config, patients
        self.colors, self.foreground = tuple(shown.colors), tuple(shown.foreground)
        self.network = self.build(dtype)

    def build(self, dtype: DTypeLike) -> Functional:
        """The network that is trained."""
        return network_of(self.config.model, len(self.colors), dtype)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters."""
        return self.network.init(key)

    def logits(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        train: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "b h w k"], PyTree]:
        """Logits of the images of a batch, and the running statistics that training them leaves."""
        with self.network.opened(params) as network:
            logits = network(to_network(batch["image"]), train=train, key=key)
        return logits, running_stats(network)

    def log_classes(
        self, params: PyTree, image: Float[Array, "b h w 3"]
    ) -> Float[Array, "b h w k"]:
        """Log probabilities of the classes in images in [-1, 1], through which gradients pass."""
        return jax.nn.log_softmax(self.network.apply(params, image).astype(jnp.float32))

    def predict(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array]
    ) -> Int32[Array, "b h w"]:
        """Most probable class of each pixel."""
        return jnp.argmax(self.logits(params, frozen, batch)[0], axis=-1).astype(jnp.int32)

    def maps(
        self, params: PyTree, frozen: PyTree, image: UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w m"]:
        """What is averaged over overlapping patches of a large image: the probability of each
        class."""
        return jax.nn.softmax(self.logits(params, frozen, {"image": image})[0].astype(jnp.float32))

    def decide(
        self, maps: Float[np.ndarray, "h w m"]
    ) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """From averaged maps, on the host: the class of each pixel, and where objects are.

        Objects are areas of the latter, `grow` pixels larger.
        """
        classes = np.argmax(maps, axis=-1).astype(np.uint8)
        return classes, np.isin(classes, self.foreground)

    def loss(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The weighted sum and its parts."""
        logits, state = self.logits(params, frozen, batch, train=True, key=key)
        valid = valid_pixels(batch["mask"], self.config.border)
        ce = cross_entropy(logits, batch["mask"], valid)
        absent = self.config.as_published_code
        dice = dice_loss(logits, batch["mask"], valid, self.foreground, absent)
        total = self.config.ce_weight * ce + self.config.dice_weight * dice
        return total, {"ce": ce, "dice_loss": dice, STATE: state}

    def eval_step(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Confusion matrix of each patient, int32 (patients, classes, classes)."""
        counted = (batch["weight"] > 0)[:, None, None]
        valid = valid_pixels(batch["mask"], self.config.scored_border) & counted
        guess, mask, patient = self.predict(params, frozen, batch), batch["mask"], batch["patient"]
        counts = patient_confusion(guess, mask, valid, patient, self.patients, len(self.colors))
        return {"confusion": counts}

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean over patients of the IoU of the foreground."""
        absent = self.config.iou_of_absent
        ious = [
            foreground_scores(matrix, self.foreground, absent)["iou"]
            for matrix in sums["confusion"]
        ]
        defined = [iou for iou in ious if not np.isnan(iou)]
        return {"iou": float(np.mean(defined)) if defined else float("nan")}

    def visualize(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Images, their masks and the predictions."""
        few = {name: array[:8] for name, array in batch.items()}
        image, mask = few["image"], few["mask"]
        guess = self.predict(params, frozen, few).astype(jnp.uint8)
        return {
            "masks": image_rows([image, *(colorize(each, self.colors) for each in (mask, guess))])
        }


def network_of(model: SegmenterModel, classes: int, dtype: DTypeLike) -> Functional:
    """The network that config.segmentation.model describes."""
    keys: dict[str, Any] = {"classes": classes, "imagenet_input": model.imagenet_input}
    if model.kind == "unet":
        sizes = {"widths", "depths", "heads", "reductions"} if model.encoder == MIT else set()
        chosen = {"encoder", "norm", "drop_path", "decoder"} | sizes
        keys |= {key: value for key, value in vars(model).items() if key in chosen}
    else:
        sizes = model.fcn8s if model.kind == "fcn8s" else model.dcan
        keys |= {"widths": sizes.widths, "hidden": sizes.hidden}
    return network(SEGMENTERS[model.kind], dtype, **keys)
