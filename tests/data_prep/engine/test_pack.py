import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid

import cv2
import fsspec
import numpy as np
import pytest

import data_prep.engine.pack as pack_module
from data_prep.annotations.repair import OUTSIDE
from data_prep.engine.thumbnail import thumbnail_files
from data_prep.slides import main
from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from stedm_jax.data.styles import StylePool
from stedm_jax.imaging.slide import Slide
from tests.data_prep.conftest import REPO, call, content, read_report


def reported(out):
    """Reports without what differs from run to run."""
    return [{**line, "seconds": 0, "taken_over": False} for line in read_report(out)]


@pytest.fixture
def whole(options, tmp_path):
    """The set as one run in one process makes it."""
    status, _ = call(main, tmp_path / "whole", options)
    assert status == 0
    return content(tmp_path / "whole")


def copied(made, options, tmp_path):
    shutil.copytree(made, tmp_path / "in")
    folders = {name: tmp_path / "in" / name for name in ("slides", "annotations")}
    return options | folders | {"table": tmp_path / "in" / "t.csv"}


def test_the_set_report_and_summary(options, whole, tmp_path):
    tiles = TileSet.open(tmp_path / "whole")
    tiles.verify()
    assert tiles.splits == ("train", "val", "test", "style") and tiles.classes[1].color == (
        10,
        11,
        12,
    )
    assert [row.slide for row in tiles.index("train")] == sorted(
        row.slide for row in tiles.index("train")
    )
    row = tiles.index("train")[0]
    assert row.extent == 64.0 and row.kind == ""
    report = (tmp_path / "whole-report" / "summary.md").read_text()
    assert "| train | 2 | 2 | 0 |" in report and "tumour" in report and "tiles/s" in report
    assert len(list((tmp_path / "whole-report" / "thumbnails").iterdir())) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole", "whole-report"]


def test_the_same_again_packs_nothing(options, whole, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").iterdir()}
    status, reports = call(main, tmp_path / "whole", options)
    assert (
        status == 0
        and "up to date" in capsys.readouterr().out
        and all(line["taken_over"] for line in reports)
    )
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").iterdir()} == before


def test_a_slide_that_was_repaired_is_all_that_is_packed_again(made, options, whole, tmp_path):
    options = copied(made, options, tmp_path)
    aside = (options["slides"] / "b.tif").rename(tmp_path / "aside.tif")
    (options["slides"] / "b.tif").write_bytes(b"no slide")
    status, reports = call(main, tmp_path / "out", options)
    assert status == 1 and [line["slide"] for line in reports if line["error"]] == ["b.tif"]
    assert "b.tif" in (tmp_path / "out-report" / "summary.md").read_text()
    aside.replace(options["slides"] / "b.tif")
    status, reports = call(main, tmp_path / "out", options)
    assert status == 0 and [line["taken_over"] for line in reports] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert content(tmp_path / "out") == whole


def test_a_slide_off_the_table_leaves_the_set(made, options, tmp_path):
    options = copied(made, options, tmp_path)
    call(main, tmp_path / "out", options)
    lines = options["table"].read_text().splitlines()
    options["table"].write_text("\n".join([lines[0], *lines[2:]]))
    status, reports = call(main, tmp_path / "out", options)
    assert status == 0 and all(line["taken_over"] for line in reports) and len(reports) == 4
    assert {row.slide for row in TileSet.open(tmp_path / "out").index("train")} == {"b.tif"}
    assert len(list((tmp_path / "out-report" / "thumbnails").iterdir())) == 4


def test_other_settings_are_refused_and_named(options, whole, tmp_path):
    with pytest.raises(UserError, match=r"other settings \(tile: 32 -> 64\)"):
        call(main, tmp_path / "whole", options | {"tile": 64})
    status, _ = call(main, tmp_path / "whole", options | {"tile": 64, "overwrite": True})
    assert status == 0 and TileSet.open(tmp_path / "whole").tile == 64


def test_what_is_no_tile_set_is_not_replaced(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("")
    with pytest.raises(UserError, match="is no tile set"):
        call(main, tmp_path / "out", options)
    assert not (tmp_path / "out-report").exists()


def test_microns_given_later_pack_only_the_slide_that_needs_them(made, options, tmp_path):
    options = copied(made, options, tmp_path)
    image = cv2.imread(str(options["slides"] / "a.tif"))[..., ::-1]
    write_pyramid(options["slides"] / "a.tif", image, mpp=100.0)
    status, reports = call(main, tmp_path / "out", options)
    assert status == 1 and "how many microns" in reports[0]["error"]
    status, reports = call(main, tmp_path / "out", options | {"slide_mpp": 0.5})
    assert status == 0 and [line["taken_over"] for line in reports] == [
        False,
        True,
        True,
        True,
        True,
    ]
    status, reports = call(main, tmp_path / "out", options | {"slide_mpp": 0.4})
    assert [line["taken_over"] for line in reports] == [False, True, True, True, True]


def test_dry_run_writes_nothing(options, tmp_path, capsys):
    status, _ = call(main, tmp_path / "out", options | {"dry_run": True})
    shown = capsys.readouterr().out
    assert status == 0 and list(tmp_path.iterdir()) == []
    assert "640x640" in shown and "a.tif" in shown and "nothing was written" in shown


def test_a_dry_run_of_many_slides_gives_the_totals_of_the_real_one(
    options, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("data_prep.engine.summary.FEW", 4)
    call(main, tmp_path / "out", options | {"dry_run": True})
    shown = capsys.readouterr().out
    assert "a.tif" not in shown and "slides by microns per pixel: 5 of 0.5 (slide)" in shown
    found = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    assert " ".join(found["split"]) == "split patients slides failed tiles MB stroma tumour"
    call(main, tmp_path / "out", options)
    tiles = TileSet.open(tmp_path / "out")
    for split in tiles.splits:
        rows = tiles.index(split)
        stroma, tumour = np.sum([row.pixels for row in rows], axis=0)
        assert found[split][1:5] == [*("220" if split == "train" else "110"), str(len(rows))]
        total = stroma + tumour
        shares = [f"{part / total:.1%}" if total else "-" for part in (stroma, tumour)]
        assert found[split][6:] == shares


def test_thumbnails_are_as_many_as_asked_for(options, tmp_path):
    folder = tmp_path / "out-report" / "thumbnails"
    call(main, tmp_path / "out", options | {"thumbnails": 2})
    assert [path.name for path in sorted(folder.iterdir())] == ["a.png", "d.png"]
    status, reports = call(main, tmp_path / "out", options | {"thumbnails": 0})
    assert status == 0 and all(line["taken_over"] for line in reports)
    call(main, tmp_path / "none", options | {"thumbnails": 0})
    assert list((tmp_path / "none-report" / "thumbnails").iterdir()) == []


def test_names_of_thumbnails_are_never_too_long(tmp_path):
    keys = ["a.svs", "b/c.svs", "b/c.ndpi", "/".join(["ä" * 60] * 4) + ".svs"]
    files = thumbnail_files(tmp_path, [*keys, keys[-1].replace(".svs", "2.svs")])
    assert len(set(files.values())) == 5 and files["a.svs"] == tmp_path / "a.png"
    assert max(len(path.name.encode()) for path in files.values()) <= 200


def test_a_folder_with_litter_of_a_file_manager_is_empty(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").write_text("")
    assert call(main, tmp_path / "out", options)[0] == 0
    assert len(TileSet.open(tmp_path / "out").splits) == 4


def test_microns_of_an_annotation_that_contradict_the_slide_are_refused(made, options, tmp_path):
    options = copied(made, options, tmp_path)
    (options["annotations"] / "a.geojson").unlink()
    points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((9, 9), (400, 9), (400, 400)))
    layer = f"<Region><Vertices>{points}</Vertices></Region>"
    xml = '<Annotations MicronsPerPixel="{}"><Annotation Name="Tumor"><Regions>{}</Regions>'
    file = options["annotations"] / "a.xml"
    file.write_text(f"{xml.format(0.25, layer)}</Annotation></Annotations>")
    _, reports = call(main, tmp_path / "out", options)
    assert "says 0.25 um a pixel, and the slide says 0.5" in reports[0]["error"]
    file.write_text(f"{xml.format(0.5, layer)}</Annotation></Annotations>")
    status, reports = call(main, tmp_path / "out", options)
    assert status == 0 and reports[0]["tiles"] and reports[0]["mpp_from"] == "slide"


def test_limit(options, tmp_path):
    status, reports = call(main, tmp_path / "out", options | {"limit": 2})
    assert status == 0 and [line["slide"] for line in reports] == ["a.tif", "b.tif"]
    _, reports = call(main, tmp_path / "out", options)
    assert [line["taken_over"] for line in reports] == [True, True, False, False, False]


def test_classes_found_are_listed_and_absent_ones_reported(options, tmp_path, capsys):
    call(main, tmp_path / "out", options | {"classes": None})
    assert "classes: 0 Stroma, 1 Tumor" in capsys.readouterr().out
    call(main, tmp_path / "other", options | {"classes": "stroma=Stroma,tumour=Tumor,fat"})
    assert "no annotation has the class fat" in capsys.readouterr().err


def test_any_exception_of_a_slide_is_reported_with_its_place(options, tmp_path, monkeypatch):
    def look(*arguments):
        raise ZeroDivisionError("a library")

    monkeypatch.setattr("data_prep.engine.overview.find_tissue", look)
    status, reports = call(main, tmp_path / "out", options)
    assert status == 2 and all("ZeroDivisionError at " in line["error"] for line in reports)


@pytest.mark.slow
def test_a_slide_that_kills_its_worker_is_the_only_one_to_fail(
    options, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(pack_module, "cut", functools.partial(kill_over, "b.tif"))
    status, reports = call(main, tmp_path / "out", options | {"workers": 2})
    assert status == 1 and [line["slide"] for line in reports if line["error"]] == ["b.tif"]
    assert "worker died" in reports[1]["error"]
    monkeypatch.undo()
    call(main, tmp_path / "out", options)
    assert content(tmp_path / "out") == whole


def kill_over(key, task):
    from data_prep.engine.cut import cut

    if task.job.key == key:
        os._exit(1)
    return cut(task)


def test_killed_and_resumed_with_other_workers(options, whole, tmp_path):
    """kill -9 when the first slide is finished; what was done is taken over, and the set is the
    same, byte by byte."""
    out = tmp_path / "out"
    flags = [f"--{name}={value}" for name, value in options.items()]
    code = (
        "import sys, time, data_prep.engine.pack as r, data_prep.slides as s\n"
        "old = r.cut\n"
        "def slow(task):\n    time.sleep(0.5)\n    return old(task)\n"
        "r.cut = slow\ns.main(sys.argv[1:])\n"
    )
    line = [sys.executable, "-c", code, *flags, f"--out={out}"]
    first = subprocess.Popen(line, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not read_report(out):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not out.exists()
    status, reports = call(main, out, options | {"workers": 2})
    assert status == 0 and 1 <= sum(line["taken_over"] for line in reports) < 5
    assert content(out) == whole and reported(out) == reported(tmp_path / "whole")
    assert not (tmp_path / "out.parts").exists()


def test_a_second_run_on_the_same_set_is_refused(options, tmp_path):
    import fcntl

    with (tmp_path / ".out.parts.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another run is packing"):
            call(main, tmp_path / "out", options)


def test_a_remote_set(options, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"memory://bucket-{uuid.uuid4().hex}/tiles"
    flags = [f"--{name}={value}" for name, value in options.items()] + [f"--out={url}"]
    for _ in range(2):
        assert main(flags) == 0
    monkeypatch.setenv("STEDM_CACHE", str(tmp_path / "cache"))
    tiles = TileSet.open(url)
    assert tiles.manifest["index_sha256"] == json.loads(whole["manifest.json"])["index_sha256"]
    assert (
        len(list(tmp_path.glob("tiles-*-report/summary.md")))
        == 1
        == len(list(tmp_path.glob("tiles-*-spool")))
    )


def test_a_remote_set_is_looked_at_before_packing(options, tmp_path, monkeypatch):
    """One of somebody else is not replaced, one of ours is; a store that refuses says so at
    once."""
    monkeypatch.chdir(tmp_path)
    url = f"memory://bucket-{uuid.uuid4().hex}/tiles"
    flags = [f"--{name}={value}" for name, value in options.items()] + [f"--out={url}", "--limit=1"]
    assert main(flags) == 0
    store, root = fsspec.core.url_to_fs(url)
    ours = store.cat_file(f"{root}/manifest.json")
    store.pipe_file(f"{root}/manifest.json", b"{}")
    monkeypatch.setattr(pack_module, "run_tasks", None)
    with pytest.raises(UserError, match="Another tile set lies at"):
        main([*flags[:-1], "--limit=2"])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    store.pipe_file(f"{root}/manifest.json", ours)
    assert main([*flags[:-1], "--limit=2"]) == 0
    assert (
        json.loads(store.cat_file(f"{root}/manifest.json"))["records"]["train"]
        > json.loads(ours)["records"]["train"]
    )

    def refuse(*arguments, **keywords):
        raise PermissionError("no credentials")

    monkeypatch.setattr(type(store), "pipe_file", refuse)
    monkeypatch.setattr(pack_module, "run_tasks", None)
    with pytest.raises(UserError, match="no credentials"):
        main([*flags[:-1], "--limit=3"])


def test_margins_hold_what_lies_round_a_tile(options, tmp_path):
    call(main, tmp_path / "out", options | {"margin": 16})
    tiles = TileSet.open(tmp_path / "out")
    rows = {(row.x, row.y): row.record for row in tiles.index("style")}
    one, right = (tiles.read("style", rows[at]) for at in ((64, 128), (128, 128)))
    assert one.image.shape == (64, 64, 3)
    assert (one.image[:, 32:] == right.image[:, :32]).all()
    corner = tiles.read("style", rows[0, 0])
    assert (corner.image[:16] == 255).all() and (corner.image[:, :16] == 255).all()


@pytest.mark.parametrize(
    ("shift", "says"), [(0, ""), (330, "of what is annotated lies on tissue"), (480, OUTSIDE)]
)
def test_an_annotation_of_another_slide_is_doubted(made, options, tmp_path, capsys, shift, says):
    options = copied(made, options, tmp_path)
    path = tmp_path / "in" / "annotations" / "a.geojson"
    features = json.loads(path.read_text())
    for feature in features:
        rings = feature["geometry"]["coordinates"]
        feature["geometry"]["coordinates"] = [[[x + shift, y] for x, y in ring] for ring in rings]
    path.write_text(json.dumps(features))
    _, reports = call(main, tmp_path / "out", options | {"min_tissue": 0.01, "limit": 1})
    assert len(reports[0]["warnings"]) == (1 if shift == 330 else 2 if shift else 0)
    shown = capsys.readouterr().err
    assert (
        all(f"warning: a.tif: {text}" in shown for text in reports[0]["warnings"]) and says in shown
    )


def test_style_tiles_are_pixels_of_their_own_slide_as_the_scanner_left_them(
    made, options, whole, tmp_path
):
    """Neither another slide's coordinates, nor a stain normalized without being asked for."""
    tiles = TileSet.open(tmp_path / "whole")
    rows = tiles.index("train")
    pool = StylePool(rows, "multipatch", "slide", 2)
    for position in range(0, len(rows), 11):
        with Slide(made / "slides" / rows[position].slide) as slide:
            for chosen in pool.choose(position, np.random.default_rng(position)):
                tile = tiles.read("train", chosen)
                np.testing.assert_array_equal(
                    tile.image, slide.read(1.0, tile.y // 2, tile.x // 2, 32, 32)
                )
