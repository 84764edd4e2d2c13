"""Scores by what the cohort table says of the patients, such as center or scanner."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stedm_jax.evaluation.mean_interval import mean_interval
from stedm_jax.evaluation.report_numbers import ReportNumbers
from stedm_jax.evaluation.statistics import Interval

MOST = 12
"""Most values of a tag that are shown; a tag with more tells patients or slides apart."""
SEVERAL = "several"


@dataclass(frozen=True)
class TagTable:
    """Scores by the values of one tag.

    Attributes:
      groups: value -> patients.
      scores: arm -> mean IoU of each group with its interval.
    """

    groups: Mapping[str, Sequence[str]]
    scores: Mapping[str, Sequence[Interval]]


def patient_tags(tags: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, dict[str, str]]:
    """Patient -> tag -> value, `several` where the tiles of a patient differ in it.

    Args:
      tags: patient and tags of some of its tiles.
    """
    found: dict[str, dict[str, str]] = {}
    for patient, own in tags:
        known = found.setdefault(patient, {})
        for name, value in own.items():
            known[name] = value if known.get(name, value) == value else SEVERAL
    return found


def tag_tables(numbers: ReportNumbers) -> dict[str, TagTable]:
    """For each tag in which test patients differ, the mean IoU of each arm by its values."""
    patients, tags = numbers.patients(), numbers.content.tags
    names = dict.fromkeys(name for patient in patients for name in tags.get(patient, {}))
    found = {}
    for name in names:
        groups: dict[str, list[str]] = {}
        for patient in patients:
            value = tags.get(patient, {}).get(name, "") or "not given"
            groups.setdefault(value, []).append(patient)
        if 1 < len(groups) <= MOST:
            found[name] = _table(numbers, dict(sorted(groups.items())))
    return found


def _table(numbers: ReportNumbers, groups: Mapping[str, Sequence[str]]) -> TagTable:
    tables = {arm: numbers.table(arm) for arm in numbers.arms}
    return TagTable(
        groups,
        {
            arm: [mean_interval(table.of_patients(patients)) for patients in groups.values()]
            for arm, table in tables.items()
        },
    )
