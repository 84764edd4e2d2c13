"""Whether the real patient nearest to an image is the one whose style it was to have."""

from collections import defaultdict

import numpy as np

from stedm_jax.evaluation.statistics import mean_of_defined
from stedm_jax.evaluation.synthesis_quality.compared import Tiles, squared_distances
from stedm_jax.evaluation.synthesis_quality.metric import Judgment, Metric, Quality


class StyleRetrieval(Metric):
    """Share of images whose nearest patient is their style patient, mean over style patients.

    Patients are all seen ones; the distance is that to the mean feature of a patient's tiles. Of
    real tiles the same, their own slide apart, since tiles of one slide overlap and are alike; a
    patient with one slide has no such number.
    """

    labels = {
        "style_retrieval": "share of images whose nearest patient is their style patient",
        "style_retrieval_real": "the same of real tiles of these patients, their slide left out",
        "style_retrieval_chance": "by chance",
    }

    def result(self, judgment: Judgment) -> Quality:
        """The shares, and 1 / number of patients."""
        features = judgment.compared
        made, _, seen = features.standard()
        names, means = _means(seen, features.seen.patients)
        hits = np.array(names)[squared_distances(made, means).argmin(1)]
        wanted = np.array(features.made.patients)
        shares = {name: (hits[wanted == name] == name).mean() for name in set(wanted) & set(names)}
        real = [_of_patient(seen, features.seen, name, names, means) for name in sorted(shares)]
        return Quality(
            {
                "style_retrieval": mean_of_defined([float(x) for x in shares.values()]),
                "style_retrieval_real": mean_of_defined(real),
                "style_retrieval_chance": 1.0 / len(names),
            }
        )


def _means(values: np.ndarray, patients: object) -> tuple[list[str], np.ndarray]:
    rows = defaultdict(list)
    for number, name in enumerate(np.asarray(patients).tolist()):
        rows[name].append(number)
    names = sorted(rows)
    return names, np.stack([values[rows[name]].mean(0) for name in names])


def _of_patient(
    values: np.ndarray, tiles: Tiles, name: str, names: list[str], means: np.ndarray
) -> float:
    """The share of a patient's real tiles; NaN with one slide."""
    own, slides = np.array(tiles.patients) == name, np.array(tiles.slides)
    hits = []
    for slide in np.unique(slides[own]):
        rest = own & (slides != slide)
        if not rest.any():
            return float("nan")
        others = means.copy()
        others[names.index(name)] = values[rest].mean(0)
        found = squared_distances(values[own & (slides == slide)], others).argmin(1)
        hits += [names[number] == name for number in found]
    return float(np.mean(hits))
