"""Patients, not slides and not tiles, are what splits divide."""

from collections.abc import Iterable, Mapping

from stedm_jax.common.errors import UserError


def check_disjoint(patients: Mapping[str, Iterable[str]], where: str) -> None:
    """Refuses a patient who stands in two splits.

    Args:
      patients: split -> names of its patients.
      where: what is being checked, for the message ("table cohort.csv", "tiles in DIR").

    Raises:
      UserError: names each such patient and the splits.
    """
    seen: dict[str, set[str]] = {}
    for split, names in patients.items():
        for name in names:
            seen.setdefault(name, set()).add(split)
    leaks = {name: sorted(splits) for name, splits in sorted(seen.items()) if len(splits) > 1}
    if leaks:
        listed = "; ".join(f"'{name}' in {' and '.join(splits)}" for name, splits in leaks.items())
        raise UserError(
            f"Patients stand in more than one split of {where}: {listed}. Scores on them would be no "
            "evidence; give each patient one split."
        )
