import os
import sqlite3

import numpy as np
import pytest

from data_prep.annotations import find_annotations, read_annotation
from stedm_jax.common.errors import UserError
from tests.data_prep.annotations.shapes import square
from tests.data_prep.annotations.writers import write_sliderunner

TEN = square(0, 0, 10, 10)


def test_types_classes_and_colors(tmp_path):
    shapes = [
        ("Tumor", 3, TEN),
        ("Stroma", 2, [(5, 5), (25, 15)]),
        ("Vessel", 5, [(50, 50), (90, 70)]),
        ("Cell", 1, [(3, 3)]),
        ("Mark", 4, [(3, 3)]),
    ]
    path = write_sliderunner(
        tmp_path / "c.sqlite", {"other.svs": [("Tumor", 3, TEN)] * 3, "s.svs": shapes}
    )
    annotation = read_annotation(path, "s.svs")
    areas = {p.name: p.area for p in annotation.polygons}
    assert areas == {"Tumor": 100, "Stroma": 200, "Vessel": pytest.approx(np.pi * 200, rel=0.01)}
    assert annotation.passed_over == 2 and annotation.polygons[0].color == (10, 20, 30)


def test_deleted_ones_and_votes(tmp_path):
    more = """
    UPDATE Annotations SET deleted = 1 WHERE uid = 1;
    UPDATE Annotations SET agreedClass = 0 WHERE uid IN (2, 3);
    INSERT INTO Annotations_label (class, annoId) VALUES (1, 2), (1, 2), (1, 3);
    """
    shapes = [("a", 3, TEN), ("b", 3, TEN), ("b", 3, TEN), ("b", 3, TEN)]
    path = write_sliderunner(tmp_path / "c.sqlite", {"s.svs": shapes}, more)
    annotation = read_annotation(path, "s.svs")
    assert sorted(p.name for p in annotation.polygons) == [
        "a",
        "b",
    ]  # two votes of three; a tie; agreed
    assert annotation.passed_over == 1


def test_nothing_is_written_beside_a_read_only_database(tmp_path):
    path = write_sliderunner(tmp_path / "c # %20?.sqlite", {"s.svs": [("a", 3, TEN)]})
    before = path.read_bytes()
    os.chmod(path, 0o400)
    assert len(read_annotation(path, "s.svs").polygons) == 1
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("DROP TABLE Classes", "Classes is missing"),
        (
            "DROP TABLE Slides; CREATE VIEW Slides AS SELECT 1 AS uid, 's.svs' AS filename",
            "Slides is missing",
        ),
        ("UPDATE Annotations_coordinates SET coordinateX = 'x'", "could not convert"),
        ("UPDATE Annotations_coordinates SET coordinateX = 1e300", "too large"),
        ("UPDATE Slides SET filename = 't.svs'", "does not list the slide s.svs; it lists t.svs"),
        ("INSERT INTO Slides (filename) VALUES ('s.svs')", "lists the slide s.svs 2 times"),
    ],
)
def test_damaged_databases_are_refused(tmp_path, change, word):
    path = write_sliderunner(tmp_path / "c.sqlite", {"s.svs": [("a", 3, TEN)]}, change)
    with pytest.raises(UserError, match=rf"c\.sqlite.*{word}"):
        read_annotation(path, "s.svs")


def test_other_databases_and_cut_ones_are_refused(tmp_path):
    path = tmp_path / "c.sqlite"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE a (b)")
    base.commit()
    base.close()
    with pytest.raises(UserError, match="Slides is missing"):
        read_annotation(path, "s.svs")
    whole = write_sliderunner(tmp_path / "d.sqlite", {"s.svs": [("a", 3, TEN)] * 300}).read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match=r"c\.sqlite"):
        read_annotation(path, "s.svs")


def test_a_database_with_changes_beside_it_is_refused(tmp_path):
    path = write_sliderunner(tmp_path / "c.sqlite", {"s.svs": [("a", 3, TEN)]})
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("UPDATE Annotations SET deleted = 1")
    base.commit()
    for ask in (
        lambda: read_annotation(path, "s.svs"),
        lambda: find_annotations(tmp_path, "s.svs"),
    ):
        with pytest.raises(
            UserError, match=r"c\.sqlite-wal beside it .* Close SlideRunner first, then copy again"
        ):
            ask()
    base.close()  # writes what is beside it into the database
    assert read_annotation(path, "s.svs").polygons == ()
