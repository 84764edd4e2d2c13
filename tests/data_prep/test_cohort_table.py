import pytest

from data_prep.cohort_table import check_files, parse_splits, read_table
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
        ("slide,patient,split\na,,train\n", "patient is empty"),
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
