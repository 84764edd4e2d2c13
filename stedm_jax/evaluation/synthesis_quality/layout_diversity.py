"""How different images of one layout are: the styles and noise that are left when it is fixed."""

import hashlib
from collections import defaultdict

import numpy as np
from jaxtyping import UInt8

from stedm_jax.evaluation.synthesis_quality.compared import Features
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment, Metric, Quality

PAIRS, BATCH = 256, 32


class LayoutDiversity(Metric):
    """Mean distance of two images with the same layout, beside that of images with two layouts.

    Distances are Euclidean in features divided by their deviations over real tiles, and LPIPS
    (Zhang et al. 2018) where its weights are given; for the latter images are turned so that their
    layouts agree. A layout and its eight symmetries are one; layouts of a single class fix nothing
    and do not count.
    """

    labels = {
        "layout_diversity": "distance of features of two images of one layout",
        "layout_diversity_other": "of two images of different layouts",
        "layout_lpips": "LPIPS of two images of one layout",
        "layout_lpips_other": "of two images of different layouts",
        "layout_pairs": "pairs of images of one layout",
    }

    def __init__(self):
        self.layouts: dict[bytes, list[int]] = defaultdict(list)
        self.turns: list[int] = []

    def update(self, example: Example) -> None:
        """Notes which layout the image has, and how it is turned."""
        turns = [turned(example.mask, turn).tobytes() for turn in range(8)]
        turn = min(range(8), key=lambda number: turns[number])
        if example.mask.min() != example.mask.max():
            self.layouts[hashlib.sha256(turns[turn]).digest()].append(len(self.turns))
        self.turns.append(turn)

    def result(self, judgment: Judgment) -> Quality:
        """Means over at most PAIRS pairs; NaN where there is none."""
        features, rng = judgment.compared, np.random.default_rng(0)
        same = _pairs(list(self.layouts.values()), rng)
        other = rng.permutation(len(self.turns))[: 2 * (len(self.turns) // 2)].reshape(-1, 2)
        made = features.standard()[0]
        numbers: dict[str, float] = {"layout_pairs": len(same)}
        for end, pairs in (("", same), ("_other", other[:PAIRS])):
            apart = np.linalg.norm(made[pairs[:, 0]] - made[pairs[:, 1]], axis=1)
            numbers[f"layout_diversity{end}"] = _mean(apart)
            numbers[f"layout_lpips{end}"] = self._lpips(features, pairs)
        return Quality(numbers)

    def _lpips(self, features: Features, pairs: np.ndarray) -> float:
        if features.distance is None:
            return float("nan")
        found = []
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            x, y = (np.stack([self._image(features, i) for i in side]) for side in some.T.tolist())
            found.append(features.distance(x, y))
        return _mean(np.concatenate(found)) if found else float("nan")

    def _image(self, features: Features, number: int) -> np.ndarray:
        return turned(features.made.read(number), self.turns[number])


def turned(image: UInt8[np.ndarray, "h w *c"], turn: int) -> UInt8[np.ndarray, "h w *c"]:
    """One of the eight symmetries of the square."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if turn > 3 else image, turn % 4))


def _pairs(groups: list[list[int]], rng: np.random.Generator) -> np.ndarray:
    """Pairs of the same group, int (p, 2): neighbors in a random order of each."""
    orders = [rng.permutation(group) for group in groups if len(group) > 1]
    pairs = [pair for order in orders for pair in zip(order[::2], order[1::2], strict=False)]
    chosen = rng.permutation(len(pairs))[:PAIRS]
    return np.array(pairs, np.int64).reshape(-1, 2)[chosen]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
