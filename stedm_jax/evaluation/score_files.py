"""Tables of scores by patient, as CSV files: those of a report, or anybody's.

Columns: `patient` and a score; where there are any, `arm`, `split`, `draw`, `generator_seed`,
`seed`, and `annotated` (the patients of the draw, joined by ";"). Other columns are not read.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.confusion import FLOOR
from stedm_jax.evaluation.score_table import LEVELS, Run, ScoreTable, score_table

BETWEEN = ";"
Row = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """The rows of a file.

    Attributes:
      path: of the file.
      rows: by column, with their number in the file.
      arms: names, in order; one without a name if there is no such column.
    """

    path: Path
    rows: Sequence[tuple[int, Row]]
    arms: Sequence[str] = field(default_factory=list)

    def arm(self, name: str | None) -> str:
        """The arm of this name; without one, the only arm. UserError if there is no such arm."""
        there = [arm for arm in self.arms if name is not None or arm != FLOOR]
        if name in there:
            return str(name)
        if name is None and len(there) == 1:
            return there[0]
        found = ", ".join(repr(arm) for arm in self.arms)
        wanted = f"no arm '{name}'" if name is not None else f"{len(there)} arms"
        raise UserError(f"{self.path} has {wanted}; there are {found}. Name two: --arms X Y.")

    def table(self, arm: str, metric: str) -> ScoreTable:
        """Scores of an arm, NaN where a field is empty. UserError: a row that makes no sense."""
        runs: dict[Run, dict[str, float]] = {}
        for line, row in self.rows:
            if row.get("arm", "") != arm:
                continue
            scores = runs.setdefault(Run(*(row.get(level, "") for level in LEVELS)), {})
            patient = row["patient"]
            if patient in scores:
                raise UserError(
                    f"{self.path}, line {line}: a second row of patient '{patient}' in the same "
                    f"run. Give one row for each patient and run; columns {', '.join(LEVELS)} "
                    "tell runs apart, and --split chooses among splits."
                )
            scores[patient] = _score(self.path, line, metric, row[metric])
        return score_table(runs, list(dict.fromkeys(name for run in runs.values() for name in run)))

    @property
    def annotated(self) -> dict[str, frozenset[str]]:
        """Draw -> its annotated patients, where the file says so."""
        return {
            row["draw"]: frozenset(row["annotated"].split(BETWEEN))
            for _, row in self.rows
            if row.get("draw") and row.get("annotated")
        }


def read_scores(path: Path, metric: str, split: str) -> ScoreFile:
    """Reads a file.

    Args:
      path: of the file.
      metric: the column of the score.
      split: the rows that are read, if there is a column `split`.

    Raises:
      UserError: no such file; a column is missing; no rows; a row without a patient.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = list(reader.fieldnames or ())
        missing = [name for name in ("patient", metric) if name not in columns]
        if missing:
            raise UserError(
                f"{path} has no column {' and no column '.join(missing)}; there are "
                f"{', '.join(columns) or 'none'}. Another score: --metric."
            )
        rows = [(reader.line_num, {key: row[key] or "" for key in columns}) for row in reader]
    there = dict.fromkeys(row["split"] for _, row in rows) if "split" in columns else {}
    if there and split not in there:
        raise UserError(f"{path} has no split '{split}'; there are {', '.join(there)}: --split.")
    rows = [(line, row) for line, row in rows if not there or row["split"] == split]
    for line, row in rows:
        if not row["patient"].strip():
            raise UserError(f"{path}, line {line}: no patient. Name one in every row.")
    if not rows:
        raise UserError(f"{path} has no rows below its header.")
    return ScoreFile(path, rows, list(dict.fromkeys(row.get("arm", "") for _, row in rows)))


def _score(path: Path, line: int, metric: str, text: str) -> float:
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise UserError(f"{path}, line {line}: {metric} is '{text}', which is no number.")
    return value
