"""Scores by run and patient, and which runs of two arms belong together.

A run is one training of a segmenter. It stands in up to three levels, each within the one before:
the draw of annotated patients, the seed of the generator, the seed of the segmenter. An arm without
a generator has no seed of one, and a table without a grid has only seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from stedm_jax.evaluation.statistics import patient_means


class Run(NamedTuple):
    """One training: its place in each level; "" where there is no such level."""

    draw: str = ""
    generator_seed: str = ""
    seed: str = ""

    @property
    def label(self) -> str:
        """Its place in one word."""
        return "/".join(part for part in self if part)


LEVELS = Run._fields


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of one arm, NaN where undefined."""

    runs: tuple[Run, ...]
    patients: tuple[str, ...]
    values: Float64[np.ndarray, "r p"]

    @property
    def level(self) -> int:
        """The highest level that has more than one value; the last one if none has."""
        several = [len({run[level] for run in self.runs}) > 1 for level in range(len(LEVELS))]
        return several.index(True) if any(several) else len(LEVELS) - 1

    @property
    def units(self) -> dict[str, Float64[np.ndarray, " p"]]:
        """The value of that level -> scores of the patients, as means over the levels below."""
        return _grouped(self.runs, self.values, self.level)

    @property
    def means(self) -> Float64[np.ndarray, " p"]:
        """Score of each patient: the mean over units."""
        return patient_means(np.stack([*self.units.values()]))

    def of_patients(self, patients: Sequence[str]) -> "ScoreTable":
        """Some of the patients, in this order."""
        places = [self.patients.index(name) for name in patients]
        return ScoreTable(self.runs, tuple(patients), self.values[:, places])


def of_seeds(values: Float64[np.ndarray, "s p"]) -> ScoreTable:
    """A table of seeds and patients that have no names."""
    seeds = tuple(Run(seed=str(i)) for i in range(len(values)))
    return ScoreTable(seeds, tuple(str(i) for i in range(values.shape[1])), values)


def score_table(runs: Mapping[Run, Mapping[str, float]], patients: Sequence[str]) -> ScoreTable:
    """From the scores of each run by patient; one that a run lacks is NaN."""
    rows = [[scores.get(name, np.nan) for name in patients] for scores in runs.values()]
    return ScoreTable(
        tuple(runs), tuple(patients), np.array(rows, float).reshape(len(rows), len(patients))
    )


def matched(a: ScoreTable, b: ScoreTable) -> tuple[ScoreTable, ScoreTable]:
    """The patients that both have, and the runs that both have.

    Runs match by draw and seeds; by draw and seed of the segmenter if one has no generator; by draw
    alone if no seed is in both. Tables that have no draw in common keep all runs.
    """
    patients = [name for name in a.patients if name in b.patients]
    a, b = a.of_patients(patients), b.of_patients(patients)
    keys: list[Callable[[Run], Any]] = [
        lambda run: run,
        lambda run: (run.draw, run.seed),
        lambda run: run.draw,
    ]
    for key in keys:
        of_a, of_b = ([key(run) for run in each.runs] for each in (a, b))
        if set(of_a) & set(of_b):
            return _of_keys(a, of_a, {*of_b}), _of_keys(b, of_b, {*of_a})
    return a, b


def _of_keys(table: ScoreTable, keys: Sequence[Any], wanted: set[Any]) -> ScoreTable:
    """The runs whose key is wanted."""
    chosen = [i for i, key in enumerate(keys) if key in wanted]
    runs = tuple(table.runs[i] for i in chosen)
    return ScoreTable(runs, table.patients, table.values[chosen])


def _grouped(
    runs: Sequence[Run], values: Float64[np.ndarray, "r p"], level: int
) -> dict[str, Float64[np.ndarray, " p"]]:
    """Means by the value of a level, each over the groups of the next level."""
    out = {}
    for name in dict.fromkeys(run[level] for run in runs):
        mine = [i for i, run in enumerate(runs) if run[level] == name]
        rows = values[mine]
        if level + 1 < len(LEVELS):
            below = _grouped([runs[i] for i in mine], rows, level + 1)
            rows = np.stack([*below.values()])
        out[name] = patient_means(rows)
    return out
