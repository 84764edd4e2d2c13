from pathlib import Path

import pytest

from data_prep.cohort_table import Row, assign, check_cohort, read_table, write_cohort
from data_prep.cohorts import describe, divide, draw, release
from data_prep.csv_file import read_cells
from data_prep.published import Source
from stedm_jax.common.errors import UserError


def row(name: str, patient: str, split: str = "train", **tags: str) -> Row:
    return Row(name, patient, split, {}, tags, 1)


def test_draws_do_not_depend_on_the_order():
    names = [f"p{i}" for i in range(20)]
    assert draw(names, "a", 0) == draw(reversed(names), "a", 0) != draw(names, "b", 0)
    assert draw(names, "a", 0) != draw(names, "a", 1) and sorted(draw(names, "a", 0)) == sorted(
        names
    )


def test_whole_patients_and_never_more():
    sizes = {"a": 3, "b": 1, "c": 1, "d": 2, "e": 9}
    rows = [
        row(f"{name}{i}", name, subtype="x") for name, count in sizes.items() for i in range(count)
    ]
    for seed in range(20):
        kept = {r.patient for r in release(rows, "subtype", 6, seed) if r.split == "train"}
        assert 0 < sum(sizes[name] for name in kept) <= 6 and "e" not in kept


def test_a_patient_with_files_in_two_groups_is_chosen_once():
    rows = [row(f"{p}{i}", f"p{p}", score=str((p + i) % 3)) for p in range(12) for i in range(2)]
    for seed in range(10):
        found = release(rows, "score", 4, seed)
        check_cohort(found, "the table")  # no patient in two splits
        counts = [
            sum(r.split == "train" and r.tags["score"] == str(g) for r in found) for g in range(3)
        ]
        assert max(counts) <= 4 and sum(counts) >= 8


def test_release_keeps_so_many_of_each_group():
    rows = [row(f"{g}{i}", f"{g}{i // 2}", subtype=g) for g in "XY" for i in range(10)]
    rows += [row("v", "v", "val", subtype="X")]
    found = release(rows, "subtype", 4, 0)
    assert [r.file for r in found] == [r.file for r in rows] and found[-1].split == "val"
    for group in "XY":
        splits = {r.patient: set() for r in found if r.tags["subtype"] == group}
        for r in found:
            splits.setdefault(r.patient, set()).add(r.split)
        assert sum(r.split == "train" and r.tags["subtype"] == group for r in found) == 4
        assert all(len(names) == 1 for names in splits.values())
    assert release(rows, "subtype", 0, 0) == rows
    with pytest.raises(UserError, match="has no 'subtype'"):
        release([row("a", "a")], "subtype", 1, 0)


def test_divide():
    names = [f"p{i:02d}" for i in range(20)]
    parts = divide(names, {"val": 0.15, "style": 0.25, "train": 1.0}, "k", 0)
    counts = {split: list(parts.values()).count(split) for split in ("val", "style", "train")}
    assert set(parts) == set(names) and counts == {"val": 3, "style": 5, "train": 12}
    assert divide(["a"], {"val": 0.1, "train": 0.9}, "k", 0) == {"a": "val"}
    assert divide([], {"val": 0.1, "train": 0.9}, "k", 0) == {}


def test_assign():
    rows = [row("a", "A"), row("b", "B", "test")]
    assert assign(rows, {}) == rows
    assert assign(rows, {"A": "val", "B": "val"}, tag="")[0].tags == {}
    found = assign(rows, {"A": "style", "B": "val"})
    assert [(r.split, r.tags) for r in found] == [
        ("style", {"own_split": "train"}),
        ("val", {"own_split": "test"}),
    ]
    with pytest.raises(UserError, match="missing are: B; unknown are: C"):
        assign(rows, {"A": "val", "C": "test"})


def test_a_cohort_that_leaks_is_refused():
    with pytest.raises(UserError, match="'A' in test and train"):
        check_cohort([row("a", "A"), row("b", "A", "test")], "the table")
    with pytest.raises(UserError, match="line 1: unknown split 'testA' of a"):
        check_cohort([row("a", "A", "testA")], "the table")
    with pytest.raises(UserError, match="The table has no row"):
        check_cohort([], "the table")


def test_the_cohort_is_a_table_that_can_be_read(tmp_path: Path):
    rows = [
        row("a.svs", "A", scanner="AT2, old"),
        Row("b.svs", "B", "test", {"mpp": "0.25"}, {"x": "ü"}, 2),
    ]
    write_cohort(tmp_path / "r" / "cohort.csv", "slide", rows)
    found = read_table(tmp_path / "r" / "cohort.csv", "slide", optional=("mpp",))
    assert [(r.file, r.patient, r.split) for r in found] == [
        ("a.svs", "A", "train"),
        ("b.svs", "B", "test"),
    ]
    assert (
        found[0].tags["scanner"] == "AT2, old"
        and found[1].extra == {"mpp": "0.25"}
        and found[1].tags["x"] == "ü"
    )


def test_a_wrong_folder_says_where_the_set_is_to_be_had(tmp_path: Path):
    source = Source("FISH", "the fishmonger", "free", ("cod.png", "pike.png"))
    for folder, says in ((tmp_path / "no", "no such folder"), (tmp_path, "it has no pike")):
        with pytest.raises(UserError, match=rf"(?s){says}.*cod\.png.*pike\.png.*fishmonger.*free"):
            source.check(folder, {"cod": True, "pike": False})
    source.check(tmp_path, {"cod": True})


def test_published_tables(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffname, grade \na , benign \n".encode())
    assert list(read_cells(path, ("name", "grade"))) == [(2, {"name": "a", "grade": "benign"})]
    with pytest.raises(UserError, match="no column sex; it has name, grade"):
        list(read_cells(path, ("sex",)))
    path.write_bytes(b"name\n\xff\xfe\n")
    with pytest.raises(UserError, match="no CSV in UTF-8"):
        list(read_cells(path, ("name",)))
    path.write_text("name;grade\na\nb;benign;1\n;\n")
    rows = [(2, {"name": "a", "grade": ""}), (3, {"name": "b", "grade": "benign"})]
    assert list(read_cells(path, ("name", "grade"), published=True)) == rows
    with pytest.raises(UserError, match="line 2 has 1 cells and the header 2"):
        list(read_cells(path, ("name", "grade")))


def test_the_cohort_in_one_line():
    rows = [row("a", "A", x="1"), row("b", "A", x="2"), row("c", "B", "test", x="1")]
    text = "train 2 files of 1 patients (1 1, 2 1); test 1 files of 1 patients (1 1)"
    assert describe(rows, "x") == text
