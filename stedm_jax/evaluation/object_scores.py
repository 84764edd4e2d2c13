"""Object scores of the GlaS challenge (Sirinukunwattana et al., Med. Image Anal. 35, 2017, and the
challenge's page).

Objects are numbers in an image, 0 for none. S* of a true object G is the predicted object that
overlaps it most, G* of a predicted object S the true one that does. Of equal overlaps the smaller
object counts, then the one with the lower number.

    F1 = 2 TP / (2 TP + FP + FN)                                                       (1)
    D  = 1/2 [ sum_G |G| Dice(G, S*) / sum_G |G|  +  sum_S |S| Dice(G*, S) / sum_S |S| ]  (2)
    H  = the same with Hausdorff distances of the sets of pixels, in pixels               (3)

S is a true positive where it covers half of G* or more. A true object has one true positive at most
(of two halves one counts), so there are TP + FN true objects and TP + FP predicted ones. Without
overlap Dice is 0, and the partner in (3) is the object nearest by that distance. The challenge sums
over the objects of all images of a set: add up their ObjectSums, then compute the scores; those of
one image are that image's.

The challenge does not say what happens where an image has objects on one side only. Here each of
them counts with the diagonal of the image in (3), the largest distance possible. Without any object
at all, all three are NaN.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cache, partial
from typing import cast

import numpy as np
from jaxtyping import Bool, Int, Integer
from scipy import ndimage

NAN = float("nan")


@dataclass(frozen=True)
class ObjectSums:
    """What scores are made of; sums of a set of images are those of its images added up.

    Attributes:
      true_positives, false_positives, false_negatives: objects.
      truth_area, predicted_area: pixels of all objects.
      dice_truth, dice_predicted, hausdorff_truth, hausdorff_predicted: sums over objects of area
        times value.
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    truth_area: int = 0
    predicted_area: int = 0
    dice_truth: float = 0.0
    dice_predicted: float = 0.0
    hausdorff_truth: float = 0.0
    hausdorff_predicted: float = 0.0

    def __add__(self, other: "ObjectSums") -> "ObjectSums":
        return ObjectSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def scores(self) -> dict[str, float]:
        """object_f1, object_dice (0 to 1) and object_hausdorff (pixels); NaN where there is no
        object at all."""
        found = 2 * self.true_positives
        return {
            "object_f1": _over(found, found + self.false_positives + self.false_negatives),
            "object_dice": self._both(self.dice_truth, self.dice_predicted),
            "object_hausdorff": self._both(self.hausdorff_truth, self.hausdorff_predicted),
        }

    def _both(self, truth: float, predicted: float) -> float:
        """Mean of the two directions; of one alone where the other has no object."""
        sides = [_over(truth, self.truth_area), _over(predicted, self.predicted_area)]
        defined = [side for side in sides if not np.isnan(side)]
        return float(np.mean(defined)) if defined else NAN


def object_sums(
    truth: Integer[np.ndarray, "h w"], predicted: Integer[np.ndarray, "h w"]
) -> ObjectSums:
    """The sums of one image.

    Args:
      truth, predicted: numbers of objects, 0 for none, in any order and with gaps; an object need
        not be connected.
    """
    g, s = _Objects(truth), _Objects(predicted)
    overlap = _overlap(g, s)
    partners_g, partners_s = _partners(overlap, s.areas), _partners(overlap.T, g.areas)

    @cache
    def distance(i: int, j: int) -> float:
        """Hausdorff distance of true object i and predicted object j."""
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(g.boxes[i], s.boxes[j], strict=True)
        )
        return hausdorff(g.labels[box] == i + 1, s.labels[box] == j + 1)

    matched = np.flatnonzero(partners_s >= 0)
    of = partners_s[matched]
    half_covered = 2 * overlap[of, matched] >= g.areas[of]
    positives = len(np.unique(of[half_covered]))
    return ObjectSums(
        true_positives=positives,
        false_positives=len(s.areas) - positives,
        false_negatives=len(g.areas) - positives,
        truth_area=int(g.areas.sum()),
        predicted_area=int(s.areas.sum()),
        dice_truth=_dice_sum(g, s, overlap, partners_g),
        dice_predicted=_dice_sum(s, g, overlap.T, partners_s),
        hausdorff_truth=_hausdorff_sum(g, s, partners_g, distance),
        hausdorff_predicted=_hausdorff_sum(s, g, partners_s, lambda j, i: distance(i, j)),
    )


class _Objects:
    """The objects of one side, renumbered 1, 2, ... in the order of their numbers.

    Attributes:
      areas: pixels of each.
      boxes: slices of rows and columns of each.
      sides: (n, 4), first and last row, first and last column of each.
    """

    def __init__(self, numbers: Integer[np.ndarray, "h w"]):
        present = np.unique(numbers)
        labels = np.searchsorted(present[present > 0], numbers) + 1
        self.labels = np.where(numbers > 0, labels, 0).astype(np.int32)
        self.areas = np.bincount(self.labels.ravel())[1:]
        self.boxes = ndimage.find_objects(self.labels)
        sides = [[r.start, r.stop - 1, c.start, c.stop - 1] for r, c in self.boxes]
        self.sides = np.array(sides, np.int64).reshape(-1, 4)


def _overlap(g: _Objects, s: _Objects) -> Int[np.ndarray, "g s"]:
    """Pixels that a true and a predicted object share."""
    shape = len(g.areas) + 1, len(s.areas) + 1
    code = g.labels.astype(np.int64) * shape[1] + s.labels
    return np.bincount(code.ravel(), minlength=shape[0] * shape[1]).reshape(shape)[1:, 1:]


def _partners(
    overlap: Int[np.ndarray, "n m"], areas: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " n"]:
    """Column of each row's largest entry, of equals that of the smallest area; -1 if all are 0."""
    if not overlap.shape[1]:
        return np.full(overlap.shape[0], -1)
    order = np.argsort(areas, kind="stable")
    return np.where(overlap.max(1) > 0, order[np.argmax(overlap[:, order], axis=1)], -1)


def _dice_sum(
    mine: _Objects,
    others: _Objects,
    overlap: Int[np.ndarray, "n m"],
    partners: Int[np.ndarray, " n"],
) -> float:
    """One direction of (2): area times Dice, over the objects that have a partner."""
    i = np.flatnonzero(partners >= 0)
    j = partners[i]
    dice = 2.0 * overlap[i, j] / (mine.areas[i] + others.areas[j])
    return float((mine.areas[i] * dice).sum())


def _hausdorff_sum(
    mine: _Objects,
    others: _Objects,
    partners: Int[np.ndarray, " n"],
    distance: Callable[[int, int], float],
) -> float:
    """One direction of (3): area times distance to the partner, or else to the nearest object."""
    if not len(others.areas):
        return float(mine.areas.sum() * float(np.hypot(*mine.labels.shape)))
    each = [
        distance(i, j) if j >= 0 else _nearest(mine.sides[i], others.sides, partial(distance, i))
        for i, j in enumerate(partners.tolist())
    ]
    return float(mine.areas @ np.array(each, np.float64))


def _nearest(
    box: Int[np.ndarray, " 4"],
    others: Int[np.ndarray, "m 4"],
    distance: Callable[[int], float],
) -> float:
    """Least distance of an object to any of the other side.

    The sides of two boxes differ by the Hausdorff distance at most, so most candidates need not
    be measured.
    """
    least = np.abs(box - others).max(1)
    best = np.inf
    for other in np.argsort(least, kind="stable").tolist():
        if least[other] >= best:
            break
        best = min(best, distance(other))
    return float(best)


def hausdorff(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """The larger of the greatest distances from a pixel of one set to the nearest of the other;
    both have pixels."""
    return max(_farthest(a, b), _farthest(b, a))


def _farthest(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    return float(cast(np.ndarray, ndimage.distance_transform_edt(~b))[a].max())


def _over(over: float | int, under: int) -> float:
    return over / under if under else NAN
