"""What a report found, in two sentences, and which classes an arm never found."""

import math
from collections.abc import Sequence

import numpy as np

from stedm_jax.evaluation.compared_arms import Comparison
from stedm_jax.evaluation.report_content import HEADLINE
from stedm_jax.evaluation.report_numbers import ReportNumbers
from stedm_jax.evaluation.words import ALPHA, number, verdict

NAMED = 3
"""Most comparisons that the first sentence names."""


def findings(numbers: ReportNumbers) -> list[str]:
    """Two sentences: which arms do better or worse, and which vary less or more between patients.

    Every difference stands with its 95 % interval and p. One sentence where nothing can be said.
    """
    if not numbers.arms:
        return []
    asked = [c for c in numbers.comparisons if c.in_family] or numbers.comparisons
    known = [c for c in asked if not math.isnan(c.difference.low)]
    if not known:
        reason = "one arm" if len(numbers.arms) == 1 else "too few patients"
        return [f"Scored on {_test(numbers)}, with {reason}: nothing can be compared yet."]
    return [_means(numbers, known), _variances(known)]


def _test(numbers: ReportNumbers) -> str:
    n = len(numbers.patients())
    return f"{n} test patient{'' if n == 1 else 's'} that nothing was learned from"


def _means(numbers: ReportNumbers, known: Sequence[Comparison]) -> str:
    kinds = {kind: [c for c in known if verdict(c).kind == kind] for kind in ("good", "bad")}
    total = f"{len(known)} comparison{'' if len(known) == 1 else 's'}"
    where = f"On {_test(numbers)}"
    if not any(kinds.values()):
        top = max(known, key=lambda c: abs(c.difference.estimate))
        holm = " after Holm's correction" if top.in_family else ""
        return (
            f"{where}, {total} show{'s' if len(known) == 1 else ''} no clear difference in mean "
            f"IoU{holm}; the largest is {top.shown} against {top.shown_baseline}, {_gain(top)}."
        )
    parts = []
    for kind, verb in (("good", "better"), ("bad", "worse")):
        found = sorted(kinds[kind], key=lambda c: -abs(c.difference.estimate))
        shown = ", ".join(f"{c.shown} than {c.shown_baseline}: {_gain(c)}" for c in found[:NAMED])
        of = f", the largest {NAMED}" if len(found) > NAMED else ""
        parts += [f"{len(found)} do {verb} ({shown}{of})"] if found else []
    return f"{where}, of {total} in mean IoU {' and '.join(parts)}."


def _gain(c: Comparison) -> str:
    d = c.difference
    p = f"after Holm p {number(c.p_holm)}" if c.in_family else f"p {number(d.p)}"
    return f"{d.estimate:+.3f} (95 % interval {d.low:+.3f} to {d.high:+.3f}; {p})"


def _variances(known: Sequence[Comparison]) -> str:
    tested = [c for c in known if not math.isnan(c.variance.p)]
    if not tested:
        return "Nothing can be said of the variance between patients."
    found = [c for c in tested if (c.variance_p_holm if c.in_family else c.variance.p) < ALPHA]
    top = max(found or tested, key=lambda c: abs(math.log(max(c.variance.estimate, 1e-9))))
    v = top.variance
    shown = (
        f"{top.shown} {v.estimate:.2f} times that of {top.shown_baseline} "
        f"(95 % interval {v.low:.2f} to {v.high:.2f})"
    )
    if not found:
        return f"The variance between patients shows no clear difference; the largest is {shown}."
    counts = f"{len(found)} of {len(tested)} comparisons, most in {shown}"
    return f"The variance between patients differs in {counts}."


def never_found(numbers: ReportNumbers) -> list[str]:
    """A sentence for each arm and class that is in the truth of test patients, and of which no run
    of the arm found a pixel."""
    said = []
    for arm in numbers.arms:
        runs = numbers.runs(arm, HEADLINE).values()
        matrices = [matrix for patients in runs for matrix in patients.values()]
        total = np.sum(matrices, axis=0)
        missed = [
            name
            for k, name in enumerate(numbers.content.classes)
            if matrices and total[k].sum() and not total[k, k]
        ]
        if missed:
            count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
            said.append(f"{arm} found no pixel of {', '.join(missed)} in any patient ({count}).")
    return said
