"""Share of each class among the labeled pixels of what is drawn, real or synthetic."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from stedm_jax.common.labels import VOID
from stedm_jax.data.classes import ClassMap
from stedm_jax.data.index import IndexRow
from stedm_jax.data.sampling import Part

MOST = 0.2
"""Difference, as a share of the real one, from which two class shares are called different."""


def expected_shares(
    rows: Sequence[IndexRow], parts: Sequence[Part], classes: ClassMap
) -> dict[str, float]:
    """Class -> its share of the labeled pixels that the parts draw from the rows, on average."""
    counts = np.zeros((len(rows), len(classes.names)))
    for row, own in zip(rows, counts, strict=True):
        for number, count in enumerate(row.pixels):
            if classes.table[number] != VOID:
                own[classes.table[number]] += count
    drawn = np.zeros(len(classes.names))
    for part in parts:
        groups = part.groups or (part.positions,)
        drawn += part.weight * np.mean([counts[list(each)].mean(axis=0) for each in groups], axis=0)
    return shares_of(drawn, classes.names)


def shares_of(pixels: Float64[np.ndarray, " k"], names: Sequence[str]) -> dict[str, float]:
    """Pixels of each class as shares of all; 0 where there are none."""
    total = max(float(pixels.sum()), 1.0)
    return {name: float(count) / total for name, count in zip(names, pixels, strict=True)}


def uneven(real: Mapping[str, float], synthetic: Mapping[str, float]) -> list[str]:
    """Classes whose shares of real and synthetic pixels differ by more than MOST of the real
    one."""
    return [name for name in real if abs(synthetic[name] - real[name]) > MOST * real[name]]


def warning(real: Mapping[str, float], synthetic: Mapping[str, float]) -> str:
    """What to say of class shares that differ; empty where they do not."""
    found = [
        f"{name} {real[name]:.3f} and {synthetic[name]:.3f}" for name in uneven(real, synthetic)
    ]
    if not found:
        return ""
    return (
        "class shares of real and synthetic pixels differ by more than a fifth: "
        f"{', '.join(found)}; a segmenter learns this prior (synthesis.shares, "
        "synthesis.min_labelled)"
    )
