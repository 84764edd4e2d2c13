"""SlideRunner's SQLite database: annotations of a whole cohort, in level-0 pixels.

Tables: Slides (uid, filename), Annotations (uid, slide, type, agreedClass, deleted),
  Annotations_coordinates (annoId,
coordinateX, coordinateY, orderIdx), Annotations_label (annoId, class), Classes (uid, name, color).
Types: 1 spot, 2 rectangle (two corners), 3 polygon, 4 important spot, 5 circle (two corners of its
  box), 6 of the whole image; 1, 4
and 6 are passed over. The class is the agreed one, else what most labels say; without a single
winner the annotation is passed over. Deleted annotations do not count at all. The file is opened
read-only and is never written, not even a journal.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from data_prep.annotations.polygon import Draft, css_color, ellipse, rectangle
from data_prep.annotations.source import DamagedError
from stedm_jax.common.errors import UserError

_NEEDED = {
    "Slides": {"uid", "filename"},
    "Annotations": {"uid", "slide", "type"},
    "Annotations_coordinates": {"annoId", "coordinateX", "coordinateY", "orderIdx"},
    "Annotations_label": {"annoId", "class"},
    "Classes": {"uid", "name"},
}
_RECTANGLE, _POLYGON, _CIRCLE = 2, 3, 5


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    for rest in (path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")):
        if (
            rest.is_file() and rest.stat().st_size
        ):  # what is in there would be missing, or half of it there
            raise UserError(
                f"The database {path} is in use, or was copied while it was: {rest.name} beside it holds changes that "
                "are not yet in it. Close SlideRunner first, then copy again."
            )
    uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            tables = {
                name
                for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            for table, needed in _NEEDED.items():  # tables, not views: these may run for ever
                columns = (
                    {row[1] for row in base.execute(f"PRAGMA table_info({table})")}
                    if table in tables
                    else set()
                )
                if not needed <= columns:
                    raise DamagedError(
                        f"its table {table} is missing or has not {', '.join(sorted(needed))}"
                    )
            yield base
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise DamagedError(str(error)) from error


def listed(path: Path) -> list[str]:
    """Names of the slides of a database.

    Raises:
      DamagedError: it is no database of SlideRunner.
    """
    with _opened(path) as base:
        return [str(name) for (name,) in base.execute("SELECT filename FROM Slides ORDER BY uid")]


def parse_sliderunner(path: Path, position: int) -> Draft:
    """Reads what a database says of one slide.

    Args:
      path: the database.
      position: of the slide in `listed(path)`.

    Raises:
      ValueError, TypeError: it is no database of SlideRunner, or is damaged.
    """
    with _opened(path) as base:
        slide = base.execute(
            "SELECT uid FROM Slides ORDER BY uid LIMIT 1 OFFSET ?", (position,)
        ).fetchone()[0]
        names, colors = _classes(base)
        labels = _labels(base, slide)
        points = _points(base, slide)
        columns = {row[1] for row in base.execute("PRAGMA table_info(Annotations)")}
        agreed = "agreedClass" if "agreedClass" in columns else "NULL"
        alive = "AND COALESCE(deleted, 0) = 0" if "deleted" in columns else ""
        draft = Draft()
        query = f"SELECT uid, type, {agreed} FROM Annotations WHERE slide = ? {alive} ORDER BY uid"
        for uid, kind, number in base.execute(query, (slide,)):
            chosen = number if number in names else _winner(labels.get(uid, Counter()))
            outline = _outline(kind, points.get(uid, []))
            if outline is None or chosen not in names:
                draft.passed_over += 1
                continue
            draft.add(names[chosen], [outline], css_color(colors.get(chosen)))
        return draft


def _classes(base: sqlite3.Connection) -> tuple[dict[int, str], dict[int, str]]:
    columns = {row[1] for row in base.execute("PRAGMA table_info(Classes)")}
    color = "color" if "color" in columns else "NULL"
    rows = base.execute(f"SELECT uid, name, {color} FROM Classes").fetchall()
    return {uid: str(name) for uid, name, _ in rows if name}, {uid: color for uid, _, color in rows}


def _labels(base: sqlite3.Connection, slide: int) -> dict[int, Counter[int]]:
    query = (
        "SELECT l.annoId, l.class FROM Annotations_label AS l JOIN Annotations AS a ON a.uid = l.annoId "
        "WHERE a.slide = ?"
    )
    found: dict[int, Counter[int]] = {}
    for uid, number in base.execute(query, (slide,)):
        found.setdefault(uid, Counter())[number] += 1
    return found


def _points(base: sqlite3.Connection, slide: int) -> dict[int, list[tuple[float, float]]]:
    query = (
        "SELECT c.annoId, c.coordinateX, c.coordinateY FROM Annotations_coordinates AS c "
        "JOIN Annotations AS a ON a.uid = c.annoId WHERE a.slide = ? ORDER BY c.annoId, c.orderIdx, c.rowid"
    )
    found: dict[int, list[tuple[float, float]]] = {}
    for uid, x, y in base.execute(query, (slide,)):
        found.setdefault(uid, []).append((float(x), float(y)))
    return found


def _winner(votes: Counter[int]) -> int | None:
    ranked = votes.most_common(2)
    return ranked[0][0] if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]) else None


def _outline(kind: int, points: list[tuple[float, float]]) -> list[tuple[float, float]] | None:
    if kind == _POLYGON:
        return points
    if kind in (_RECTANGLE, _CIRCLE) and len(points) == 2:
        (x0, y0), (x1, y1) = points
        if kind == _RECTANGLE:
            return rectangle(x0, y0, x1, y1)
        return ellipse((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
    return None
