"""Solvers of the probability-flow equation, as tables that `samplers.sample` runs.

At evaluation i the network sees the state x at a level t and gives the clean image D_0; D_1, D_2
are those of the evaluations before. A solver may correct x now that D_0 is known, from y, the
state that the last step began with; then it steps to the level of the next evaluation:

    x' = r x + p y + q_0 D_0 + q_1 D_1 + ...                                      (1)
    x_next = a x' + b_0 D_0 + b_1 D_1 + ... + d z                                 (2)

With lambda = log(alpha / sigma), h = lambda_s - lambda_t from level t to s, the exact solution is
(Lu et al. 2022, DPM-Solver++, equation 9)

    x_s = (sigma_s / sigma_t) x_t + alpha_s I,   I = int exp(lambda - lambda_s) D d lambda  (3)

over the step; solvers differ in what they take for D between the levels. What stands for D_j in
(2) and (1) below are the weights w_j of I = w_0 D_0 + w_1 D_1 + ...

- DPM-Solver++ 2M, 3M (Lu et al. 2022; algorithm 2, and the third order of its code): differences
  of D_0, D_1, D_2 for its derivatives.
- UniPC with B(h) = exp(-h) - 1 (Zhao et al. 2023; algorithms 1 and 2, B_2): likewise of order 2 or
  3, and a corrector of one order more that costs no evaluation.
- Heun (Karras et al. 2022, algorithm 1, without its noise): two evaluations for each step but the
  last, of Euler's step and of the mean slope in x / alpha over sigma / alpha.

The order is lower at the first steps, after a level without signal, whose lambda is infinite, and
towards the end: the last step is x = D_0.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np
from jaxtyping import Float64, Int32

Weights = list[float]


@dataclass(frozen=True)
class Levels:
    """The levels of a run: alpha, sigma, float64 (n + 1,), of each step and of its end."""

    alpha: Float64[np.ndarray, " m"]
    sigma: Float64[np.ndarray, " m"]

    @property
    def steps(self) -> int:
        """n."""
        return len(self.alpha) - 1

    def lam(self, index: int) -> float:
        """lambda of a level; infinite without noise or signal."""
        with np.errstate(divide="ignore"):
            return float(np.log(self.alpha[index]) - np.log(self.sigma[index]))

    def order(self, index: int, highest: int) -> int:
        """Of the step from a level: as many D as there are since the first level with signal, and
        one at the last step, two before it."""
        first = int(self.alpha[0] == 0.0)
        known, left = index - first + 1, self.steps - index
        return max(1, min(highest, known, left if self.sigma[-1] == 0.0 else highest))


@dataclass(frozen=True)
class Plan:
    """What `samplers.sample` runs: a row for each evaluation of the network.

    Attributes:
      timesteps: the levels that the network sees.
      steps: a, b_0, b_1, ..., d of equation 2.
      corrections: r, p, q_0, q_1, ... of equation 1; None: x' = x.
    """

    timesteps: Int32[np.ndarray, " n"]
    steps: Float64[np.ndarray, "n columns"]
    corrections: Float64[np.ndarray, "n columns"] | None = None

    @property
    def history(self) -> int:
        """How many D of evaluations before are kept."""
        return self.steps.shape[1] - 3


def dpmpp_3m(levels: Levels, timesteps: Int32[np.ndarray, " n"]) -> Plan:
    """DPM-Solver++ of order 3."""
    rows = [
        _row(levels, i, _taylor(levels, i, levels.order(i, 3)), history=2)
        for i in range(levels.steps)
    ]
    return Plan(timesteps, np.array(rows))


def unipc(levels: Levels, timesteps: Int32[np.ndarray, " n"], order: int) -> Plan:
    """UniPC of order 2 or 3: the predictor, and the corrector of the step before."""
    none = [1.0, 0.0, 0.0] + [0.0] * order
    rows, fixes = list[list[float]](), [none]
    for i in range(levels.steps):
        used = levels.order(i, order)
        rows.append(_row(levels, i, _unified(levels, i, used, corrects=False), order))
        weights = _unified(levels, i, used, corrects=True)
        # From a level without signal the step is infinite, and D_0 alone is right.
        known = np.isfinite(levels.lam(i))
        fixes.append([0.0, *_row(levels, i, weights, order)[:-1]] if known else none)
    return Plan(timesteps, np.array(rows), np.array(fixes[:-1]))


def heun(levels: Levels, timesteps: Int32[np.ndarray, " n"]) -> Plan:
    """Heun's method; a row for either evaluation of a step."""
    seen, rows, fixes = list[int](), list[list[float]](), list[list[float]]()
    for i in range(levels.steps):
        (a_t, a_s), (s_t, s_s) = levels.alpha[i : i + 2], levels.sigma[i : i + 2]
        seen.append(int(timesteps[i]))
        rows.append(_row(levels, i, _taylor(levels, i, 1), history=1))
        fixes.append([1.0, 0.0, 0.0, 0.0])
        if i + 1 == levels.steps or a_t == 0.0:
            continue
        half = (s_s / a_s - s_t / a_t) / 2
        now, before = half * a_s / s_s, half * a_t / s_t
        seen.append(int(timesteps[i + 1]))
        rows.append([1.0, 0.0, 0.0, 0.0])
        fixes.append([now, a_s / a_t * (1.0 + before), -a_s * now, -a_s * before])
    return Plan(np.array(seen, np.int32), np.array(rows), np.array(fixes))


def _row(levels: Levels, i: int, weights: Weights, history: int) -> list[float]:
    """Equation 3 with I of these weights, as a row of `Plan.steps`."""
    scaled = [float(levels.alpha[i + 1]) * weight for weight in weights]
    padding = [0.0] * (history + 1 - len(weights))
    return [float(levels.sigma[i + 1] / levels.sigma[i]), *scaled, *padding, 0.0]


def _taylor(levels: Levels, i: int, order: int) -> Weights:
    """I by differences of D_0, D_1, D_2, for its derivatives at the level of D_0."""
    h = levels.lam(i + 1) - levels.lam(i)
    phi_1 = np.expm1(-h)
    if order == 1:
        return [-phi_1]
    unit = np.eye(3)
    r_0 = (levels.lam(i) - levels.lam(i - 1)) / h
    slope = (unit[0] - unit[1]) / r_0
    if order == 2:
        return list(-phi_1 * unit[0] - 0.5 * phi_1 * slope)[:2]
    r_1 = (levels.lam(i - 1) - levels.lam(i - 2)) / h
    older = (unit[1] - unit[2]) / r_1
    bend = (slope - older) / (r_0 + r_1)
    phi_2 = phi_1 / h + 1.0
    phi_3 = phi_2 / h - 0.5
    return list(-phi_1 * unit[0] + phi_2 * (slope + r_0 * bend) - 2.0 * phi_3 * bend)


def _unified(levels: Levels, i: int, order: int, *, corrects: bool) -> Weights:
    """I by UniPC: of D_0, D_1, ... where it predicts; of D at the end of the step, then these,
    where it corrects."""
    h = levels.lam(i + 1) - levels.lam(i)
    b_h = np.expm1(-h)  # B_2 of the paper, which is phi_1 too
    places = [(levels.lam(i - j) - levels.lam(i)) / h for j in range(1, order)] + [1.0]
    unit = np.eye(order + 1)  # D_0, D_1, ..., and last the one at the end of the step
    differences = [(unit[j] - unit[0]) / places[j - 1] for j in range(1, order + 1)]
    count = order if corrects else order - 1  # of differences that are used
    if count < 2:
        shares = [0.5][:count]  # as published, in place of the solution below
    else:
        powers = np.array([[place**k for place in places[:count]] for k in range(count)])
        shares = list(np.linalg.solve(powers, _moments(h, count)))
    total = -b_h * unit[0]
    for share, difference in zip(shares, differences[:count], strict=True):
        total = total - b_h * share * difference
    return [total[-1], *total[:-1]] if corrects else list(total[:-1])


def _moments(h: float, count: int) -> list[float]:
    """k! phi_(k + 1)(-h) / B(h), k = 1, 2, ...: what exact weights integrate of each power."""
    found, phi = list[float](), np.expm1(-h)
    for k in range(1, count + 1):
        phi = phi / -h - 1.0 / factorial(k)
        found.append(phi * factorial(k) / np.expm1(-h))
    return found
