"""Whether images are nearer to the tiles of training than to those of other patients."""

import numpy as np

from stedm_jax.evaluation.panels import fit
from stedm_jax.evaluation.synthesis_quality.compared import Features, nearest
from stedm_jax.evaluation.synthesis_quality.metric import CLOSEST, Judgment, Metric, Quality

PAIRS, SIDE = 16, 256
"""Pairs that are shown, and most pixels of a side of each image."""


class Memorization(Metric):
    """Share of images whose nearest real tile is of a seen patient, with as many of both kinds.

    Near half where images lie as near to patients whom the generator never saw; more is not yet
    copying, since images have the styles of seen patients. So beside it stand real tiles of seen
    patients, their own slide apart: images that were copied lie above them. The images nearest to a
    seen tile for how far the nearest held-out one is are shown beside both.
    """

    labels = {
        "nearest_is_seen": "share of images nearer to a tile of a seen patient than of a held-out",
        "nearest_is_seen_real": "the same of real tiles of seen patients, their slide left out",
        "nearest_ratio": "median distance to the nearest seen tile over that to a held-out one",
        "nearest_ratio_real": "the same of real tiles of seen patients, their slide left out",
        "nearest_ratio_least": "the least of the images",
    }

    def result(self, judgment: Judgment) -> Quality:
        """Shares, ratios, and the closest pairs as one image."""
        features = judgment.compared
        made, held_out, seen = features.standard()
        count = min(len(held_out), len(seen))
        some_seen, some_held = features.seen.some(count), features.held_out.some(count)
        slides = np.array(features.seen.slides)
        apart = slides[some_seen][:, None] == slides[some_seen]
        held, pool = held_out[some_held], seen[some_seen]
        _, made_to_seen = nearest(made, pool)
        _, made_to_held = nearest(made, held)
        _, real_to_seen = nearest(pool, pool, apart)
        _, real_to_held = nearest(pool, held)
        ratio, closest = _ratio(made_to_seen, made_to_held), nearest(made, seen)
        all_held = nearest(made, held_out)
        order = np.argsort(_ratio(closest[1], all_held[1]), kind="stable")[:PAIRS]
        numbers = {
            "nearest_is_seen": float((made_to_seen < made_to_held).mean()),
            "nearest_is_seen_real": float((real_to_seen < real_to_held).mean()),
            "nearest_ratio": float(np.median(ratio)),
            "nearest_ratio_real": float(np.median(_ratio(real_to_seen, real_to_held))),
            "nearest_ratio_least": float(_ratio(closest[1], all_held[1]).min()),
        }
        return Quality(numbers, {CLOSEST: _sheet(features, order, closest[0], all_held[0])})


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Of two distances; 1 where both are 0."""
    return (over + 1e-12) / (under + 1e-12)


def _sheet(features: Features, made: np.ndarray, seen: np.ndarray, held: np.ndarray) -> np.ndarray:
    """A row for each image: itself, the nearest seen tile, the nearest held-out tile."""
    rows = []
    for number in made.tolist():
        three = (
            features.made.read(number),
            features.seen.read(int(seen[number])),
            features.held_out.read(int(held[number])),
        )
        rows.append(np.concatenate([fit(image, SIDE) for image in three], axis=1))
    return np.concatenate(rows)
