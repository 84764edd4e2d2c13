"""SlideRunner's SQLite database: annotations of a whole cohort, in level-0 pixels.

Tables: Slides (uid, filename), Annotations (uid, slide, type, agreedClass, deleted),
Annotations_coordinates (annoId, coordinateX, coordinateY, orderIdx), Annotations_label (annoId,
class), Classes (uid, name, color). Types: 1 spot, 2 rectangle (two corners), 3 polygon, 4 important
spot, 5 circle (two corners of its box), 6 of the whole image; 1, 4 and 6 are passed over. The class
is the agreed one, else what most labels say; without a single winner the annotation is passed over.
Deleted annotations do not count at all. The file is opened read-only and is never written, not even
a journal.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import NO_CLASS, Draft
from data_prep.annotations.values import Points, color_of, ellipse_within, rectangle
from stedm_jax.common.errors import UserError

_NEEDED = {
    "Slides": {"uid", "filename"},
    "Annotations": {"uid", "slide", "type"},
    "Annotations_coordinates": {"annoId", "coordinateX", "coordinateY", "orderIdx"},
    "Annotations_label": {"annoId", "class"},
    "Classes": {"uid", "name"},
}
_RECTANGLE, _POLYGON, _CIRCLE = 2, 3, 5
_KINDS = {1: "spot", 4: "spot", 6: "of the whole image"}
_LABELS = """
SELECT l.annoId, l.class FROM Annotations_label AS l JOIN Annotations AS a ON a.uid = l.annoId
WHERE a.slide = ?
"""
_COORDINATES = """
SELECT c.annoId, c.coordinateX, c.coordinateY
FROM Annotations_coordinates AS c JOIN Annotations AS a ON a.uid = c.annoId
WHERE a.slide = ? ORDER BY c.annoId, c.orderIdx, c.rowid
"""


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    for rest in (path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")):
        # What is in there would be missing, or only half of it.
        if rest.is_file() and rest.stat().st_size:
            raise UserError(
                f"The database {path} is in use, or was copied while it was: {rest.name} beside it "
                "holds changes that are not yet in it. Close SlideRunner first, then copy again."
            )
    uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            # Tables, not views: a view may run forever.
            found = base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in found}
            for table, needed in _NEEDED.items():
                if table not in tables or not needed <= _columns(base, table):
                    raise ValueError(
                        f"its table {table} is missing or has not {', '.join(sorted(needed))}"
                    )
            yield base
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ValueError(str(error)) from error


def _columns(base: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in base.execute(f"PRAGMA table_info({table})")}


def _listed(content: Content) -> list[str]:
    with _opened(content.path) as base:
        return [str(name) for (name,) in base.execute("SELECT filename FROM Slides ORDER BY uid")]


def _read(content: Content, position: int, size: Size | None) -> Draft:
    with _opened(content.path) as base:
        query = "SELECT uid FROM Slides ORDER BY uid LIMIT 1 OFFSET ?"
        slide = base.execute(query, (position,)).fetchone()[0]
        labels: dict[int, Counter[int]] = defaultdict(Counter)
        for uid, number in base.execute(_LABELS, (slide,)):
            labels[uid][number] += 1
        points: dict[int, Points] = defaultdict(list)
        for uid, x, y in base.execute(_COORDINATES, (slide,)):
            points[uid].append((float(x), float(y)))
        color = "color" if "color" in _columns(base, "Classes") else "NULL"
        classes = {
            uid: (str(name), color_of(shown))
            for uid, name, shown in base.execute(f"SELECT uid, name, {color} FROM Classes")
            if name
        }
        columns = _columns(base, "Annotations")
        agreed = "agreedClass" if "agreedClass" in columns else "NULL"
        alive = "AND COALESCE(deleted, 0) = 0" if "deleted" in columns else ""
        query = f"SELECT uid, type, {agreed} FROM Annotations WHERE slide = ? {alive} ORDER BY uid"
        draft = Draft()
        for uid, kind, number in base.execute(query, (slide,)):
            chosen = number if number in classes else _winner(labels[uid])
            outline = _outline(kind, points[uid])
            if outline is None or chosen not in classes:
                draft.pass_over(_KINDS.get(kind, f"type {kind}") if outline is None else NO_CLASS)
            else:
                name, shown = classes[chosen]
                draft.add(name, [outline], shown)
        return draft


def _winner(votes: Counter[int]) -> int | None:
    ranked = votes.most_common(2)
    return ranked[0][0] if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]) else None


def _outline(kind: int, points: Points) -> Points | None:
    if kind == _POLYGON:
        return points
    if kind == _RECTANGLE and len(points) == 2:
        return rectangle(*points[0], *points[1])
    return ellipse_within(points) if kind == _CIRCLE and len(points) == 2 else None


def _sniff(content: Content) -> bool:
    return content.head.startswith(b"SQLite format 3\0")


FORMAT = Format("SlideRunner database", (".sqlite", ".sqlite3", ".db"), _sniff, _read, _listed)
