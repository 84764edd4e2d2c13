"""Object scores of the GlaS challenge (Sirinukunwattana et al., Med. Image Anal. 35, 2017, and the
challenge's page).

Objects are numbers in an image, 0 for none. S* of a true object G is the predicted object that
overlaps it most, G* of a predicted object S the true one that does; of equals the smaller one, then
that of the lower number.

    F1 = 2 TP / (2 TP + FP + FN)
         (1) D  = 1/2 [ sum_G |G| Dice(G, S*) / sum_G |G|  +  sum_S |S| Dice(G*, S) / sum_S |S| ]
                       (2)
    H  = the same with Hausdorff distances of the sets of pixels, in pixels
         (3)

S is a true positive where it covers half of G* or more. A true object has one true positive at most
(of two halves one counts), so there are TP + FN true objects and TP + FP predicted ones. Without
overlap Dice is 0, and the partner in (3) is the object nearest by that distance. The challenge sums
over the objects of all images of a set: add up their ObjectSums, then ask for scores; those of one
  image are that image's.

Not said by the challenge, chosen here: where an image has objects on one side only, each counts
  with the diagonal of
the image in (3), the largest distance that it could have. Without any object at all, all three are
NaN.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8
from scipy import ndimage

NAN = float("nan")
Box = tuple[slice, slice]


@dataclass(frozen=True)
class ObjectSums:
    """What scores are made of; adding up over images gives those of a set.

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


def total(sums: Iterable[ObjectSums]) -> ObjectSums:
    """Those of a set of images."""
    return sum(sums, ObjectSums())


def object_sums(
    truth: Integer[np.ndarray, "h w"], predicted: Integer[np.ndarray, "h w"]
) -> ObjectSums:
    """The sums of one image.

    Args:
      truth, predicted: numbers of objects, 0 for none, in any order and with gaps; an object need
        not be connected.

    Raises:
      ValueError: a negative number.
    """
    pair = _Pair(_Side(truth), _Side(predicted))
    positives = pair.true_positives()
    n_truth, n_predicted = len(pair.truth.areas), len(pair.predicted.areas)
    return ObjectSums(
        positives,
        n_predicted - positives,
        n_truth - positives,
        int(pair.truth.areas.sum()),
        int(pair.predicted.areas.sum()),
        *(float(value) for value in (*pair.dice(), *pair.hausdorff())),
    )


class _Side:
    """The objects of one side, numbered 1, 2, ... by their number given."""

    def __init__(self, numbers: Integer[np.ndarray, "h w"]):
        if numbers.size and numbers.min() < 0:
            raise ValueError(f"an object has the number {numbers.min()}; they start at 1")
        present = np.unique(numbers)
        labels = np.searchsorted(present[present > 0], numbers) + 1
        self.labels: Int32[np.ndarray, "h w"] = np.where(numbers > 0, labels, 0).astype(np.int32)
        self.areas: Integer[np.ndarray, " n"] = np.bincount(self.labels.ravel())[1:]
        self.boxes: list[Box] = ndimage.find_objects(self.labels)

    @cached_property
    def sides(self) -> Integer[np.ndarray, "n 4"]:
        """Of each object's box: first row, last row, first column, last column."""
        return np.array(
            [[b[0].start, b[0].stop - 1, b[1].start, b[1].stop - 1] for b in self.boxes]
        ).reshape(-1, 4)


@dataclass
class _Pair:
    """True and predicted objects of an image."""

    truth: _Side
    predicted: _Side
    known: dict[tuple[int, int], float] = field(default_factory=dict)

    @cached_property
    def overlap(self) -> Integer[np.ndarray, "g s"]:
        """Pixels that a true and a predicted object share."""
        n, m = len(self.truth.areas), len(self.predicted.areas)
        code = self.truth.labels.astype(np.int64) * (m + 1) + self.predicted.labels
        return np.bincount(code.ravel(), minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)[1:, 1:]

    @cached_property
    def partners(self) -> tuple[Integer[np.ndarray, " g"], Integer[np.ndarray, " s"]]:
        """S* of every true object and G* of every predicted one, counted from 0; -1 without
        overlap."""
        return _most(self.overlap, self.predicted.areas), _most(self.overlap.T, self.truth.areas)

    def true_positives(self) -> int:
        of_predicted = self.partners[1]
        s = np.flatnonzero(of_predicted >= 0)
        g = of_predicted[s]
        return len(np.unique(g[2 * self.overlap[g, s] >= self.truth.areas[g]]))

    def dice(self) -> tuple[float, float]:
        """Sums of (2), true objects first."""
        areas = self.truth.areas[:, None] + self.predicted.areas[None, :]
        each = 2.0 * self.overlap / np.maximum(areas, 1)
        sums = []
        for table, partner, area in zip((each, each.T), self.partners, self._areas, strict=True):
            g = np.flatnonzero(partner >= 0)
            sums.append(float((area[g] * table[g, partner[g]]).sum()))
        return sums[0], sums[1]

    def hausdorff(self) -> tuple[float, float]:
        """Sums of (3), true objects first."""
        if not all(len(areas) for areas in self._areas):
            diagonal = float(np.hypot(*self.truth.labels.shape))
            return float(self.truth.areas.sum() * diagonal), float(
                self.predicted.areas.sum() * diagonal
            )
        of_truth, of_predicted = self.partners
        by_truth = [
            self.distance(g, s) if s >= 0 else self._nearest(g, None)
            for g, s in enumerate(of_truth.tolist())
        ]
        by_predicted = [
            self.distance(g, s) if g >= 0 else self._nearest(None, s)
            for s, g in enumerate(of_predicted.tolist())
        ]
        return float(self.truth.areas @ np.array(by_truth)), float(
            self.predicted.areas @ np.array(by_predicted)
        )

    @property
    def _areas(self) -> tuple[Integer[np.ndarray, " g"], Integer[np.ndarray, " s"]]:
        return self.truth.areas, self.predicted.areas

    def _nearest(self, g: int | None, s: int | None) -> float:
        """Least distance of one object to any of the other side.

        The sides of two boxes differ by the Hausdorff distance at most, so most candidates need not
        be looked at.
        """
        bounds = self.truth.sides if g is None else self.truth.sides[g]
        others = self.predicted.sides if s is None else self.predicted.sides[s]
        least = np.abs(bounds - others).max(1)
        best = np.inf
        for other in np.argsort(least, kind="stable").tolist():
            if least[other] >= best:
                break
            best = min(best, self.distance(other if g is None else g, other if s is None else s))
        return float(best)

    def distance(self, g: int, s: int) -> float:
        """Hausdorff distance of the pixels of a true and a predicted object."""
        if (g, s) not in self.known:
            a, b = self.truth.boxes[g], self.predicted.boxes[s]
            box = tuple(
                slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True)
            )
            self.known[g, s] = hausdorff(
                self.truth.labels[box] == g + 1, self.predicted.labels[box] == s + 1
            )
        return self.known[g, s]


def hausdorff(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """The larger of the greatest distances from a pixel of one set to the nearest of the other;
    both have pixels."""
    return max(_farthest(a, b), _farthest(b, a))


def _farthest(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    if not (a & ~b).any():
        return 0.0
    return float(cast(np.ndarray, ndimage.distance_transform_edt(~b))[a].max())


def _most(
    overlap: Integer[np.ndarray, "n m"], areas: Integer[np.ndarray, " m"]
) -> Integer[np.ndarray, " n"]:
    """Column of each row's largest entry, of equals that of the smallest area; -1 where all are
    0."""
    if not overlap.shape[1]:
        return np.full(overlap.shape[0], -1)
    order = np.argsort(areas, kind="stable")
    return np.where(overlap.max(1) > 0, order[np.argmax(overlap[:, order], axis=1)], -1)


def _over(over: float | int, under: float | int) -> float:
    return over / under if under else NAN


def to_objects(
    mask: Bool[np.ndarray, "h w"], *, least: int = 0, hole: int = 0, grow: int = 0
) -> Int32[np.ndarray, "h w"]:
    """Objects of a mask: areas of pixels that touch, also at corners, numbered from 1.

    Args:
      mask: pixels of objects.
      least: objects of fewer pixels are left out.
      hole: gaps inside of objects, not open to the edge, of so many pixels and fewer are filled.
      grow: pixels by which every object is made larger, never into another one (Chen et al., 2016:
        the contours that keep touching objects apart are given back); before `least` and after
        `hole`.
    """
    labels, count = _areas_of(fill_holes(mask, hole), np.ones((3, 3)))
    if grow and count:
        found = ndimage.distance_transform_edt(labels == 0, return_indices=True)
        away, (rows, columns) = cast(tuple[np.ndarray, np.ndarray], found)
        labels = np.where(away <= grow, labels[rows, columns], 0)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= max(least, 1)
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]


def classes_in_objects(
    classes: UInt8[np.ndarray, "h w"],
    objects: Integer[np.ndarray, "h w"],
    foreground: Sequence[int],
    rest: int,
) -> UInt8[np.ndarray, "h w"]:
    """A mask of objects only: in them no pixel is without a foreground class, elsewhere none has
    one.

    Args:
      classes: class of each pixel.
      objects: numbers, 0 for none. A pixel in one that is not foreground gets the object's most
        frequent such class.
      foreground: classes of objects.
      rest: class of a pixel in no object that is foreground.
    """
    front, width = np.isin(classes, foreground), int(max(foreground)) + 1
    pixels = objects[front].astype(np.int64) * width + classes[front]
    counts = np.bincount(pixels, minlength=(int(objects.max(initial=0)) + 1) * width).reshape(
        -1, width
    )
    usual = np.array(foreground, np.uint8)[np.argmax(counts[:, list(foreground)], axis=1)]
    inside = np.where(front, classes, usual[objects])
    return np.where(objects > 0, inside, np.where(front, np.uint8(rest), classes))


def fill_holes(mask: Bool[np.ndarray, "h w"], most: int) -> Bool[np.ndarray, "h w"]:
    """The mask with its holes of `most` pixels and fewer filled; what is open to the edge of the
    image is no hole."""
    if most <= 0:
        return mask
    gaps, count = _areas_of(~mask, None)
    filled = np.bincount(gaps.ravel(), minlength=count + 1) <= most
    for edge in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        filled[edge] = False
    filled[0] = False
    return mask | filled[gaps]


def _areas_of(
    mask: Bool[np.ndarray, "h w"], touching: np.ndarray | None
) -> tuple[Int32[np.ndarray, "h w"], int]:
    """Numbers of the connected areas of a mask, and how many there are."""
    return cast(tuple[np.ndarray, int], ndimage.label(mask, touching))
