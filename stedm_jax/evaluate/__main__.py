"""Compares two arms patient by patient, from tables of scores.

    python -m stedm_jax.evaluate --compare A.csv B.csv
    python -m stedm_jax.evaluate --compare report/per_patient.csv --arms restyled labelled
    python -m stedm_jax.evaluate --synthesis=DIR --real=DIR    (another command: --synthesis --help)

A table has the columns `patient` and a score (--metric), and perhaps `arm`, `split`, `draw`,
`generator_seed` and `seed`, which tell its runs apart. The first arm is compared with the second,
over the patients and runs that both have: difference of the means with its interval, ratio of the
variances between patients, and who gains and who loses. docs/experiments.md explains the numbers.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from stedm_jax.common.commands import command_parser, run_command
from stedm_jax.common.errors import UserError
from stedm_jax.common.text import table
from stedm_jax.evaluation.compared_arms import Comparison, compare
from stedm_jax.evaluation.score_files import ScoreFile, read_scores
from stedm_jax.evaluation.score_table import ScoreTable, matched
from stedm_jax.evaluation.statistics import summarize
from stedm_jax.evaluation.words import number, verdict


def main(argv: list[str]) -> None:
    """Parses the command line, compares and prints.

    Raises:
      UserError: for anything that the user can repair.
    """
    if any(word.partition("=")[0] == "--synthesis" for word in argv):
        # What it needs takes seconds to import, and a comparison of tables does without.
        from stedm_jax.evaluate.sets import main as of_sets

        return of_sets(argv)
    arguments = _parse(argv)
    files = [read_scores(path, arguments.metric, arguments.split) for path in arguments.compare]
    if len(files) == 1 and not arguments.arms:
        raise UserError(f"One file needs two arms: --arms X Y, of {', '.join(files[0].arms)}.")
    wanted = arguments.arms or (None, None)
    names = [file.arm(arm) for file, arm in zip(_two(files), wanted, strict=True)]
    arm, other = (
        _defined(file, file.table(name, arguments.metric), arguments)
        for file, name in zip(_two(files), names, strict=True)
    )
    shown = _shown(names, files)
    if not set(arm.patients) & set(other.patients):
        raise UserError(
            f"{shown[0]} and {shown[1]} have no patient in common: {_some(arm.patients)} in one, "
            f"{_some(other.patients)} in the other. The names have to be the same in both."
        )
    shared = files[0].annotated | files[-1].annotated
    found = compare((shown[0], shown[1]), arm, other, shared)
    print(_report(found, arm, other, arguments.metric), flush=True)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("stedm_jax.evaluate", __doc__)
    add = parser.add_argument
    add("--compare", nargs="+", type=Path, required=True, metavar="FILE", help="one or two tables")
    add("--arms", nargs=2, metavar=("X", "Y"), help="X of the first table, Y of the last")
    add("--metric", default="iou", metavar="COLUMN", help="the score, higher is better [iou]")
    add("--split", default="test", help="rows that count, if there is a column split [test]")
    add(
        "--leave_out_undefined",
        action="store_true",
        help="patients with an undefined score in any run do not count",
    )
    arguments = parser.parse_args(argv)
    if len(arguments.compare) > 2:
        raise UserError(f"--compare names {len(arguments.compare)} files; name one or two.")
    return arguments


def _two(files: list[ScoreFile]) -> tuple[ScoreFile, ScoreFile]:
    return files[0], files[-1]


def _shown(names: list[str], files: list[ScoreFile]) -> tuple[str, str]:
    """How the arms are called: by name, or by file if that does not tell them apart."""
    first, second = _two(files)
    if names[0] != names[1] and all(names):
        return names[0], names[1]
    if first is second or str(first.path) == str(second.path):
        raise UserError(f"Both are the same arm of {first.path}; name two: --arms X Y.")
    if first.path.stem != second.path.stem:
        return first.path.stem, second.path.stem
    return str(first.path), str(second.path)


def _defined(file: ScoreFile, scores: ScoreTable, arguments: argparse.Namespace) -> ScoreTable:
    """Without the patients whose score is undefined in a run, if the user wants that.

    A run that lacks a patient altogether counts as one that leaves the score undefined.
    """
    names = [scores.patients[i] for i in np.flatnonzero(np.isnan(scores.values).any(axis=0))]
    if names and not arguments.leave_out_undefined:
        raise UserError(
            f"{file.path}: {arguments.metric} is missing or undefined (empty, NaN) in a run of "
            f"{_some(names)}. Complete the table, or leave these patients out: "
            "--leave_out_undefined."
        )
    return scores.of_patients([name for name in scores.patients if name not in names])


def _report(c: Comparison, arm: ScoreTable, other: ScoreTable, metric: str) -> str:
    said = verdict(c, metric)
    a, b = matched(arm, other)
    lines = [["arm", "runs", "patients", f"{metric} mean", "variance", "lowest", "highest"]]
    for name, each in ((c.arm, a), (c.baseline, b)):
        s = summarize(each.means)
        cells = [f"{x:.4f}" for x in (s.mean, s.var, s.low, s.high)]
        lines.append([name, str(len(each.runs)), str(s.n), *cells])
    rows = sorted(zip(a.patients, a.means, b.means, strict=True), key=lambda row: row[2] - row[1])
    gains = [[name, f"{x:.4f}", f"{y:.4f}", f"{x - y:+.4f}"] for name, x, y in rows]
    text = [
        table(lines, ruled=True),
        "",
        said.headline,
        *(f"  {line}" for line in said.lines),
        "",
        table([["patient", c.arm, c.baseline, "difference"], *gains], ruled=True),
    ]
    if not math.isnan(c.sign_flip):
        text += ["", f"Permuted signs, for these runs alone: exact p {number(c.sign_flip)}."]
    return "\n".join([*text, *_left_out(c, arm, other, a, b)])


def _left_out(
    c: Comparison, arm: ScoreTable, other: ScoreTable, a: ScoreTable, b: ScoreTable
) -> list[str]:
    """What one table has and the other lacks."""
    found = []
    for name, all_, used in ((c.arm, arm, a), (c.baseline, other, b)):
        patients = [each for each in all_.patients if each not in used.patients]
        if patients:
            found.append(f"Only {name} has {_some(patients)}; left out.")
        if len(used.runs) < len(all_.runs):
            less = len(all_.runs) - len(used.runs)
            found.append(
                f"{less} of {len(all_.runs)} runs of {name} have no counterpart; left out."
            )
    return found


def _some(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


if __name__ == "__main__":
    run_command(main)
