"""Pixels of synthetic tiles that the judge does not believe (Arm.reject), which become void.

FreeMask (NeurIPS 2023), section 3.3: a pixel is dropped where its cross-entropy under a segmenter
exceeds a factor times the mean of its class on real tiles. Here the segmenter is the judge and the
real tiles are those of the validation patients, so that no patient is judged who taught it. A class
that they do not show has no mean, and none of its pixels is dropped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int64, UInt8

from stedm_jax.common.labels import VOID
from stedm_jax.data.pipeline import DamagedTile
from stedm_jax.data.rejected import Rejected
from stedm_jax.experiment.arm_tiles import Rows, real_rows, synthetic_rows
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.training.sharding import own_rows, replicated, to_global


@dataclass(frozen=True)
class Doubt:
    """What the judge rejects of a set.

    Attributes:
      rejected: its pixels.
      shares: style patient -> class -> share of its labeled pixels that is rejected.
    """

    rejected: Rejected
    shares: Mapping[str, Mapping[str, float]]


@dataclass
class Tally:
    """Labeled and rejected pixels of each style patient by class."""

    classes: Sequence[str]
    counts: dict[str, Int64[np.ndarray, "two c"]] = field(default_factory=dict)

    def add(self, patient: str, mask: UInt8[np.ndarray, "h w"], out: np.ndarray) -> None:
        """Counts a tile; `out` says which of its pixels are rejected."""
        mine = self.counts.setdefault(patient, np.zeros((2, len(self.classes)), np.int64))
        for row, chosen in enumerate((mask != VOID, out)):
            mine[row] += np.bincount(mask[chosen], minlength=len(self.classes))

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Style patient -> class -> share, of the classes that it has."""
        return {
            patient: {
                name: float(rejected / labeled)
                for name, labeled, rejected in zip(self.classes, *counts, strict=True)
                if labeled
            }
            for patient, counts in sorted(self.counts.items())
        }


def pixel_losses(logits: Float[Array, "b h w k"], mask: UInt8[Array, "b h w"]) -> Array:
    """Cross-entropy of each pixel, float32 (b, h, w); 0 where it is void."""
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    labels = jnp.where(mask == VOID, 0, mask).astype(jnp.int32)
    picked = jnp.take_along_axis(logp, labels[..., None], axis=-1)[..., 0]
    return jnp.where(mask == VOID, 0.0, -picked)


def class_means(
    tiles: Iterator[tuple[np.ndarray, np.ndarray]], classes: int
) -> Float[np.ndarray, " c"]:
    """Mean loss of the pixels of each class, float64; infinite for a class that no tile shows.

    Args:
      tiles: losses and mask of each.
      classes: their number.
    """
    total, count = np.zeros(classes), np.zeros(classes)
    for losses, mask in tiles:
        known = mask != VOID
        total += np.bincount(mask[known], losses[known].astype(np.float64), classes)
        count += np.bincount(mask[known], minlength=classes)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def rejected_pixels(
    losses: np.ndarray, mask: UInt8[np.ndarray, "h w"], means: np.ndarray, factor: float
) -> np.ndarray:
    """Pixels whose loss exceeds the factor times the mean of their class, bool (h, w)."""
    limits = np.full(256, np.inf)
    limits[: len(means)] = factor * means
    return losses > limits[mask]


def doubt(context: Context, learned: Learned, name: str, factor: float) -> Doubt:
    """What the judge rejects of a set, found once a run and point of the grid.

    Args:
      context, learned: of the run.
      name: of the set.
      factor: times the mean loss of the class, above which a pixel is rejected.
    """
    key = "doubt", name, factor
    if key not in context.memo:
        if "class means" not in context.memo:
            tiles = _judged(context, learned, real_rows(context)["val"])
            means = class_means(tiles, len(context.classes.names))
            context.memo["class means"] = means
        context.memo[key] = _doubt(context, learned, name, factor)
    return context.memo[key]


def _doubt(context: Context, learned: Learned, name: str, factor: float) -> Doubt:
    made, tally = synthetic_rows(context, name), Tally(context.classes.names)
    means = context.memo["class means"]

    def pixels() -> Iterator[np.ndarray]:
        tiles = _judged(context, learned, made)
        for row, (losses, mask) in zip(made.rows, tiles, strict=True):
            out = rejected_pixels(losses, mask, means, factor)
            tally.add(row.style_patient, mask, out)
            yield out

    return Doubt(Rejected(pixels()), tally.shares)


def _judged(
    context: Context, learned: Learned, rows: Rows
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Losses under the judge and mask of every row, on every host; a damaged tile is void."""
    size, count = context.settings.segmentation.train.batch, len(rows.rows)
    mine = own_rows(size, context.mesh)
    losses = _losses(context, learned)
    for start in range(0, count, size):
        tiles = [_read(rows, min(start + int(row), count - 1)) for row in mine]
        image, mask = (np.stack(each) for each in zip(*tiles, strict=True))
        found = losses(to_global({"image": image, "mask": mask}, context.mesh))
        values, labels = (np.asarray(each)[: count - start] for each in found)
        yield from zip(values, labels, strict=True)


def _read(rows: Rows, position: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        return rows.reader.read(rows.rows[position])
    except DamagedTile:
        side = rows.reader.tiles.tile
        return np.zeros((side, side, 3), np.uint8), np.full((side, side), VOID, np.uint8)


def _losses(context: Context, learned: Learned) -> Callable[[Mapping[str, Array]], tuple]:
    """A batch -> its losses and masks, whole on every host; compiled once a point of the grid."""
    if "pixel losses" not in context.memo:
        task, params = learned.judge

        def losses(params: object, batch: Mapping[str, Array]) -> tuple[Array, Array]:
            logits = task.logits(params, {}, batch)[0]
            return pixel_losses(logits, batch["mask"]), batch["mask"]

        compiled = jax.jit(losses, out_shardings=replicated(context.mesh))
        context.memo["pixel losses"] = lambda batch: compiled(params, batch)
    return context.memo["pixel losses"]
