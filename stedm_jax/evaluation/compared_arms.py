"""Two arms compared, and the family of comparisons that Holm's correction covers.

The test of the means is that of their interval. A permutation of signs over patients is exact under
symmetry and is given beside it, but it cannot decide: with 6 patients its smallest p is 2 / 64, so
two comparisons after Holm never fall below 0.05, and it takes what a run adds to all patients alike
for an effect.

The family: without rivals, each arm against the baseline. With rivals, the best of ours against the
best rival and against the baseline, where the best are those of the validation patients, who are in
no comparison. Each comparison brings two tests, of the means and of the variances. What is outside
of the family is shown with plain p values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import stats

from stedm_jax.evaluation.mean_interval import MeanDifference, Shared, mean_difference
from stedm_jax.evaluation.score_table import ScoreTable, matched
from stedm_jax.evaluation.statistics import NAN, Interval, holm, mean_of_defined
from stedm_jax.evaluation.variance_ratio import variance_ratio

RESAMPLES = 1 << 14
"""Most sign patterns; up to 13 patients, all of them."""


@dataclass(frozen=True)
class Comparison:
    """An arm against another.

    Attributes:
      difference: of their means. variance: of the arm in that of the other, as a ratio.
      sign_flip: p value of the permutation of signs.
      patients: name -> what it gains.
      group, other_group: how many patients were labeled for each, in words; empty if all alike.
      in_family: whether Holm's correction covers it. p_holm, variance_p_holm: corrected p values.
    """

    arm: str
    baseline: str
    difference: MeanDifference
    variance: Interval
    sign_flip: float
    patients: Mapping[str, float] = field(default_factory=dict)
    group: str = ""
    other_group: str = ""
    in_family: bool = False
    p_holm: float = NAN
    variance_p_holm: float = NAN

    @property
    def in_words(self) -> bool:
        """Whether it is shown in words: those of the family, and few labeled patients against
        more."""
        return self.in_family or self.group != self.other_group

    @property
    def shown(self) -> str:
        """The arm, with how many patients were labeled for it."""
        return f"{self.arm} ({self.group})" if self.group else self.arm

    @property
    def shown_baseline(self) -> str:
        """The other arm, likewise."""
        return f"{self.baseline} ({self.other_group})" if self.other_group else self.baseline


@dataclass(frozen=True)
class Family:
    """Which arms a report compares.

    Attributes:
      baseline: the arm that all are compared with.
      ours, rivals: of the one question whether the best of ours beats the best rival.
      best: the best of ours and of the rivals on the validation patients; None without scores.
    """

    baseline: str
    ours: Sequence[str] = ()
    rivals: Sequence[str] = ()
    best: tuple[str, str] | None = None

    def pairs(self, arms: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
        """(arm, other, in the family or not), each pair once, those of the family first."""
        asked = [*self._asked()]
        other = [(arm, self.baseline) for arm in arms if arm != self.baseline]
        if self.best:
            other += [(self.best[0], rival) for rival in self.rivals if rival != self.best[0]]
        yield from ((*pair, True) for pair in asked or other)
        yield from ((*pair, False) for pair in dict.fromkeys(other) if asked and pair not in asked)

    def _asked(self) -> Iterator[tuple[str, str]]:
        if self.best is not None:
            yield self.best
            if self.baseline not in self.best:
                yield self.best[0], self.baseline
        elif self.rivals:
            yield from ((one, rival) for one in self.ours for rival in self.rivals)


def family_of(
    arms: Sequence[str],
    baseline: str,
    ours: Sequence[str],
    rivals: Sequence[str],
    validation: Mapping[str, float],
) -> Family:
    """The family of those arms that have results.

    Args:
      arms: that have results.
      baseline: the arm that others are compared with.
      ours, rivals: as declared; without `ours`, all arms but the rivals and the baseline.
      validation: arm -> mean score of the validation patients.
    """
    rivals = [arm for arm in rivals if arm in arms]
    ours = [arm for arm in ours or arms if arm in arms and arm not in rivals]
    ours = [arm for arm in ours if arm != baseline]
    if not ours or not rivals:
        return Family(baseline)
    scored = {arm: score for arm, score in validation.items() if not np.isnan(score)}
    if not all(arm in scored for arm in (*ours, *rivals)):
        return Family(baseline, ours, rivals)
    best = max(ours, key=scored.__getitem__), max(rivals, key=scored.__getitem__)
    return Family(baseline, ours, rivals, best)


def compare(
    names: tuple[str, str], arm: ScoreTable, other: ScoreTable, shared: Shared | None = None
) -> Comparison:
    """An arm against another, over the patients and runs that both have.

    Args:
      names: of the arm and of the other.
      arm, other: their scores.
      shared: draw -> annotated patients, if draws have some in common.
    """
    a, b = matched(other, arm)
    gains = b.means - a.means
    return Comparison(
        *names,
        mean_difference(other, arm, shared),
        variance_ratio(a.means, b.means),
        sign_flip(gains),
        {name: float(gain) for name, gain in zip(a.patients, gains, strict=True)},
    )


def sign_flip(gains: Float64[np.ndarray, " p"]) -> float:
    """Two-sided p of the mean gain when each patient's sign is open; NaN below 2 patients."""
    known = gains[~np.isnan(gains)]
    if known.size < 2:
        return NAN
    found: Any = stats.permutation_test(
        (known,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=0
    )
    return float(found.pvalue)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those of the family with Holm's correction over their tests of means and of variances."""
    asked = [each for each in comparisons if each.in_family]
    adjusted = holm([p for each in asked for p in (each.difference.p, each.variance.p)])
    found = iter(zip(adjusted[::2], adjusted[1::2], strict=True))
    return [
        replace(each, p_holm=pair[0], variance_p_holm=pair[1])
        for each in comparisons
        for pair in [next(found) if each.in_family else (NAN, NAN)]
    ]


def compare_family(
    tables: Mapping[str, ScoreTable], family: Family, shared: Shared | None = None
) -> list[Comparison]:
    """All comparisons of a report, those of the family first."""
    found = [
        replace(compare((arm, other), tables[arm], tables[other], shared), in_family=asked)
        for arm, other, asked in family.pairs([*tables])
    ]
    return corrected(found)


def validation_score(table: ScoreTable) -> float:
    """Mean over the validation patients, by which the best arm is chosen."""
    return mean_of_defined(table.means)
