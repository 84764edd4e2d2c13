import pytest

from data_prep.cohort_table import check_files, parse_splits, read_table
from data_prep.on_disk import on_disk
from stedm_jax.common.errors import UserError


def table(tmp_path, text):
    path = tmp_path / "cohort.csv"
    path.write_text(text)
    return path


def test_reads_rows_tags_and_optional_columns(tmp_path):
    path = table(
        tmp_path,
        "\ufeffslide, patient,split,mpp,grade\na.tif,P1,train,0.25,high\nb.tif,P2,test,,low\n",
    )
    first, second = read_table(path, "slide", optional=("mpp",))
    assert (first.file, first.patient, first.split, first.tags) == (
        "a.tif",
        "P1",
        "train",
        {"grade": "high"},
    )
    assert first.mpp(path) == 0.25 and second.mpp(path) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slide,patient\na,P1\n", "no column split"),
        ("slide,patient,split\n", "no row"),
        ("slide,patient,split\na,P1,trian\n", "unknown split 'trian'"),
        ("slide,patient,split\na,,train\n", r"no patient is known in the lines 2 \(''\)"),
        ("slide,patient,split\na,P1,train\na,P1,train\n", "line 3.*'a' stands in line 2"),
        ("slide,patient,split\na,P1,train\nb,P1,test\n", "'P1' in test and train"),
        ("slide,patient,split\na,P1\n", "line 2 has 2 cells and the header 3"),
        ("slide,patient,split\na,P1,train,x\n", "line 2 has 4 cells and the header 3"),
        (
            "slide,patient,split\na,P04,train\nb,p 04,test\n",
            "'P04' in train and 'p 04' in test, which differ in case",
        ),
    ],
)
def test_errors_name_the_place(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        read_table(table(tmp_path, text), "slide")


def test_what_spreadsheets_make_of_a_table_is_read(tmp_path, capsys):
    path = table(tmp_path, "Slide;Patient;SPLIT;MPP;anotation\r\na;P1;train;0.5;x\r\n;;;;\r\n")
    (row,) = read_table(path, "slide", optional=("mpp", "annotation"))
    assert (row.file, row.split, row.extra["mpp"], row.tags) == (
        "a",
        "train",
        "0.5",
        {"anotation": "x"},
    )
    assert "is 'annotation' meant?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "header", ["split,split", "split,Split", "split, SPLIT ", "patient,split", "grade,grade"]
)
def test_a_column_that_is_there_twice_is_refused(tmp_path, header):
    path = table(tmp_path, f"slide,patient,{header}\na,P1,train,test\n")
    if header == "grade,grade":
        path = table(tmp_path, "slide,patient,split,grade,Grade\na,P1,train,x,y\n")
    with pytest.raises(UserError, match="more than once"):
        read_table(path, "slide")


PLAIN = "slide;patient;split;note\nä.tif;Pé;train;a, b\n"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (PLAIN.encode(), 2),
        (PLAIN.encode("utf-8-sig"), 2),
        (PLAIN.encode("utf-16"), 2),
        (b"\xfe\xff" + PLAIN.encode("utf-16-be"), 2),
        (("sep=;\r\n" + PLAIN).encode(), 3),
        (('"sep=;"\n\n' + PLAIN).encode("utf-16"), 4),
        (("sep=|\n" + PLAIN.replace(";", "|")).encode("utf-8-sig"), 3),
        (PLAIN.replace(";", "\t").replace("\n", "\r\n").encode(), 2),
        (PLAIN.replace("é", "e\u0301").replace("ä", "a\u0308").encode(), 2),
    ],
)
def test_every_way_of_saving_a_table_gives_the_same(tmp_path, data, line):
    (tmp_path / "t.csv").write_bytes(data)
    (row,) = read_table(tmp_path / "t.csv", "slide")
    assert (row.file, row.patient, row.split) == ("ä.tif", "Pé", "train")
    assert row.tags == {"note": "a, b"} and row.line == line


def test_a_column_without_a_name_is_left_out(tmp_path, capsys):
    path = table(tmp_path, ",slide,patient,split,\n0,a,P1,train,\n")
    assert read_table(path, "slide")[0].tags == {}
    assert "has no name" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nan", "NaN", "NA", "n/a", "-", "", "None", "#N/A", "unknown"])
def test_a_patient_who_is_a_missing_value_is_refused_by_line(tmp_path, name):
    path = table(tmp_path, f"slide,patient,split\na,P1,train\nb,{name},train\nc,{name},test\n")
    with pytest.raises(UserError, match=rf"lines 3 \('{name}'\), 4 \('{name}'\)"):
        read_table(path, "slide")


@pytest.mark.parametrize(
    ("one", "other"), [("007", "7"), ("7", "7.0"), ("P07", "p7"), ("7,0", "07")]
)
def test_patients_that_a_spreadsheet_may_have_changed(tmp_path, capsys, one, other):
    text = 'slide,patient,split\na,"{}",train\nb,"{}",{}\nc,10,train\nd,1,train\n'
    with pytest.raises(UserError, match=rf"'{one}' \(line 2\) and '{other}' \(line 3\)"):
        read_table(table(tmp_path, text.format(one, other, "test")), "slide")
    assert len(read_table(table(tmp_path, text.format(one, other, "train")), "slide")) == 4
    err = capsys.readouterr().err
    assert err.count("warning") == 1 and f"'{one}' (line 2) and '{other}' (line 3)" in err


def test_patients_that_are_others_are_none(tmp_path, capsys):
    names = ["1.10", "1.1", "1.01", "A-1", "A-10", "100", "10", "0"]
    rows = "".join(f"s{i},{name},train\n" for i, name in enumerate(names))
    assert len(read_table(table(tmp_path, "slide,patient,split\n" + rows), "slide")) == len(names)
    assert capsys.readouterr().err == ""


def test_files_without_endings_and_with_accents_of_another_kind(tmp_path):
    for name in ("e\u0301.svs", "b.ome.tif", "c.svs", "c.png", "d.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "m.mrxs").write_text("")
    (tmp_path / "m").mkdir()
    names = ["é.svs", "b", "m", "c", "d"]
    text = "slide,patient,split\n" + "".join(f"{name},P{name},train\n" for name in names)
    rows, missing = check_files(read_table(table(tmp_path, text), "slide"), tmp_path, "--slides")
    assert [row.file for row in rows[:3]] == ["é.svs", "b.ome.tif", "m.mrxs"]
    assert sorted(missing) == [3, 4] and "may be c.png or c.svs" in missing[3]
    assert on_disk(tmp_path, "é.svs").read_text() == "e\u0301.svs"
    assert on_disk(tmp_path, "none") == tmp_path / "none"


def test_missing_table_and_wrong_number(tmp_path):
    with pytest.raises(UserError, match=r"no table .*none\.csv"):
        read_table(tmp_path / "none.csv", "slide")
    path = table(tmp_path, "slide,patient,split,mpp\na,P1,train,fine\n")
    with pytest.raises(UserError, match="mpp='fine' is no number"):
        read_table(path, "slide", optional=("mpp",))[0].mpp(path)


def test_splits_by_patient_replace_the_column(tmp_path):
    path = table(tmp_path, "image,patient,split\na,P1,testA\nb,P2,train\n")
    rows = read_table(path, "image", splits=parse_splits("train:P1; style:P2"))
    assert [(row.split, row.tags) for row in rows] == [
        ("train", {"table_split": "testA"}),
        ("style", {"table_split": "train"}),
    ]


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ("train:P1", "missing are: P2; unknown are: none"),
        ("train:P1,P2,P3", "missing are: none; unknown are: P3"),
        ("train:P1,P2;test:P1", "'P1' in test and train"),
        ("tset:P1", "tset:P1"),
    ],
)
def test_wrong_splits_by_patient(tmp_path, splits, says):
    path = table(tmp_path, "image,patient\na,P1\nb,P2\n")
    with pytest.raises(UserError, match=says):
        read_table(path, "image", splits=parse_splits(splits))


def test_one_file_by_two_names(tmp_path):
    (tmp_path / "a.tif").write_text("")
    (tmp_path / "b.tif").symlink_to(tmp_path / "a.tif")
    rows = read_table(
        table(tmp_path, "slide,patient,split\na.tif,P1,train\nb.tif,P2,test\n"), "slide"
    )
    with pytest.raises(UserError, match=r"'b.tif' in line 3 .* same file as 'a.tif' in line 2"):
        check_files(rows, tmp_path, "--slides")
