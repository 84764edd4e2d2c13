"""A comparison of two arms in plain words: for whom it helped, by how much, or no evidence."""

import math
from dataclasses import dataclass

from stedm_jax.evaluation.compared_arms import Comparison
from stedm_jax.evaluation.mean_interval import MeanDifference
from stedm_jax.evaluation.statistics import LEVEL, Interval

ALPHA = 1.0 - LEVEL
NAMED = 6
"""Most patients that a sentence names."""
SAME = 0.0005
"""A gain that is shown as 0.000."""
PLURALS = {"draw": "draws", "generator_seed": "generator seeds", "seed": "seeds"}


@dataclass(frozen=True)
class Verdict:
    """What a comparison says.

    Attributes:
      kind: good, bad, or empty where there is no evidence.
      says: between the names of the two arms: "does better than".
      headline: the whole sentence. lines: further ones.
    """

    kind: str
    says: str
    headline: str
    lines: tuple[str, ...]


def verdict(c: Comparison, metric: str = "IoU") -> Verdict:
    """Of an arm against another."""
    d = c.difference
    if math.isnan(d.low):
        text = (
            f"{c.shown} and {c.shown_baseline}: {_count(d.n, 'patient')}, too few for a comparison."
        )
        return Verdict("", "has too few patients for a comparison with", text, ())
    kind, says = _direction(c)
    holm = f", after Holm p {number(c.p_holm)}" if c.in_family else ""
    headline = (
        f"{c.shown} {says} {c.shown_baseline}: mean {metric} {d.estimate:+.3f} (95 % interval "
        f"{d.low:+.3f} to {d.high:+.3f}, {_count(d.n, 'patient')}, {_units(d)}; "
        f"p {number(d.p)}{holm})."
    )
    return Verdict(kind, says, headline, (*_patients(c), _variance(c), _chance(d)))


def _direction(c: Comparison) -> tuple[str, str]:
    """Kind and verb of a comparison with an interval."""
    d = c.difference
    if d.low <= 0 <= d.high:
        return "", "shows no evidence of a difference from"
    better = d.low > 0
    if c.in_family and c.p_holm >= ALPHA:
        return "", f"may do {'better' if better else 'worse'} (not after Holm's correction) than"
    return ("good", "does better than") if better else ("bad", "does worse than")


def _patients(c: Comparison) -> list[str]:
    """Who gains and who loses, by name, the largest change first."""
    known = {name: gain for name, gain in c.patients.items() if not math.isnan(gain)}
    up = sorted((name for name, gain in known.items() if gain >= SAME), key=lambda x: -known[x])
    down = sorted((name for name, gain in known.items() if gain <= -SAME), key=known.__getitem__)
    found = []
    for names, verb in ((up, "gains on"), (down, "loses on")):
        if names:
            shown = ", ".join(f"{name} {known[name]:+.3f}" for name in names[:NAMED])
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            found.append(f"It {verb} {len(names)} of {len(known)}: {shown}{more}.")
    return found


def _variance(c: Comparison) -> str:
    """What can be said of the variance between patients."""
    v = c.variance
    if math.isnan(v.p):
        return "Nothing can be said of the variance between patients."
    holm = f", after Holm p {number(c.variance_p_holm)}" if c.in_family else ""
    p = c.variance_p_holm if c.in_family else v.p
    shown = f"{v.estimate:.2f} times that of {c.shown_baseline} (95 % interval {_limits(v)}"
    verb = "it is " + ("smaller" if v.estimate < 1 else "larger")
    says = verb if p < ALPHA else "no evidence of a difference"
    return f"Variance between patients: {shown}; p {number(v.p)}{holm}): {says}."


def _chance(d: MeanDifference) -> str:
    """What the interval covers."""
    several = list(dict.fromkeys(PLURALS[level] for level, count in d.units if count > 1))
    if not several:
        return "One run: the interval covers the choice of patients, and not that of runs."
    single = (
        ", but not of the run of the arm that has one" if any(n < 2 for _, n in d.units) else ""
    )
    text = f"The interval covers the choice of patients and of {' and '.join(several)}"
    return f"{text}, but not of the run of the arm that has one." if single else f"{text}."


def _units(d: MeanDifference) -> str:
    counts = ["1 run" if n < 2 else f"{n} {PLURALS[level]}" for level, n in d.units]
    return counts[0] if d.paired else f"{counts[0]} against {counts[1]}, not paired"


def _limits(v: Interval) -> str:
    return f"{v.low:.2f} to {v.high:.2f}"


def number(p: float) -> str:
    """A p value with three digits; a dash where it is undefined."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


COLUMNS = ("arm", "against", "IoU difference", "95 % interval", "p", "variance ratio", "p")


def line(c: Comparison) -> list[str]:
    """A comparison in the columns of COLUMNS."""
    d, v = c.difference, c.variance
    interval = "-" if math.isnan(d.low) else f"{d.low:+.3f} to {d.high:+.3f}"
    ratio = "-" if math.isnan(v.estimate) else f"{v.estimate:.2f}"
    ps = (number(p).removeprefix("= ") for p in (d.p, v.p))
    return [c.shown, c.shown_baseline, f"{d.estimate:+.3f}", interval, next(ps), ratio, next(ps)]
