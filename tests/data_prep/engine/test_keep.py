"""What is finished is never lost: by --limit, other options, failures, damage, or a full disk."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import data_prep.engine.pack as pack_module
from data_prep.engine.job import SlideReport
from data_prep.slides import main
from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from tests.data_prep.conftest import REPO, call, content


@pytest.fixture
def own(made, options, tmp_path):
    """Options for a copy of the slides that may be changed; three of them."""
    shutil.copytree(made, tmp_path / "in")
    lines = (made / "t.csv").read_text().splitlines()
    (tmp_path / "in" / "t.csv").write_text("\n".join(lines[:4]))
    folders = {name: tmp_path / "in" / name for name in ("slides", "annotations")}
    return options | folders | {"table": tmp_path / "in" / "t.csv"}


def slides_of(out):
    tiles = TileSet.open(out)
    return sorted({row.slide for split in tiles.splits for row in tiles.index(split)})


def test_limit_keeps_the_others(own, tmp_path, capsys):
    out = tmp_path / "out"
    call(main, out, own)
    before = content(out)
    status, _ = call(main, out, own | {"limit": 1})
    assert status == 0 and content(out) == before
    lines = own["table"].read_text().splitlines()
    own["table"].write_text("\n".join([lines[0], *lines[2:]]))
    call(main, out, own)
    assert slides_of(out) == ["b.tif", "c.tif"]
    assert "1 slides that the table no longer names leave the set" in capsys.readouterr().err


def test_parts_of_other_rules_are_refused_not_swept(own, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack_module, "assemble", interrupt)
    with pytest.raises(KeyboardInterrupt):
        call(main, tmp_path / "out", own)
    monkeypatch.undo()
    parts = sorted(path.parent.name for path in (tmp_path / "out.parts").glob("*/part.json"))
    assert len(parts) == 3
    with pytest.raises(UserError, match=r"interrupted run finished.*tile: 32 -> 64"):
        call(main, tmp_path / "out", own | {"tile": 64})
    assert (
        sorted(path.parent.name for path in (tmp_path / "out.parts").glob("*/part.json")) == parts
    )
    status, reports = call(main, tmp_path / "out", own | {"limit": 1})
    assert status == 0 and slides_of(tmp_path / "out") == ["a.tif", "b.tif", "c.tif"]
    status, reports = call(main, tmp_path / "out", own)
    assert all(line["taken_over"] for line in reports)


def test_a_slide_that_fails_now_keeps_its_old_tiles(own, tmp_path):
    out = tmp_path / "out"
    call(main, out, own)
    before = content(out)
    (own["slides"] / "b.tif").write_bytes(b"no slide")
    for _ in range(2):
        status, reports = call(main, out, own)
        assert status == 1 and [line["stale"] for line in reports] == [False, True, False]
        assert content(out) == before
    assert "what an earlier run made" in (tmp_path / "out-report" / "summary.md").read_text()


def test_a_slide_that_fails_each_time_costs_no_reassembly(own, tmp_path, monkeypatch):
    (own["slides"] / "b.tif").write_bytes(b"no slide")
    call(main, tmp_path / "out", own)
    monkeypatch.setattr(pack_module, "assemble", None)
    status, _ = call(main, tmp_path / "out", own)
    assert status == 1


@pytest.mark.parametrize("what", ["slides", "annotations", "."])
def test_overwrite_replaces_tile_sets_only(own, tmp_path, what):
    before = content(tmp_path / "in")
    with pytest.raises(UserError, match="would replace --"):
        call(main, tmp_path / "in" / what, own | {"overwrite": True})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.doc").write_text("")
    with pytest.raises(UserError, match="is no tile set"):
        call(main, tmp_path / "thesis", own | {"overwrite": True})
    assert content(tmp_path / "in") == before and (tmp_path / "thesis" / "thesis.doc").exists()


@pytest.mark.parametrize("damage", ["a byte", "short", "version"])
def test_damaged_parts_are_packed_again(own, tmp_path, monkeypatch, damage):
    call(main, tmp_path / "whole", own)
    monkeypatch.setattr(pack_module, "assemble", lambda *arguments: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        call(main, tmp_path / "out", own)
    monkeypatch.undo()
    (part,) = (tmp_path / "out.parts").glob("a.tif*")
    data = bytearray((part / "records.array_record").read_bytes())
    if damage == "version":
        about = json.loads((part / "part.json").read_text())
        about |= {"about": {"of": "another version"}, "fingerprint": "other"}
        (part / "part.json").write_text(json.dumps(about))
    else:
        data[len(data) // 2] ^= 1
        (part / "records.array_record").write_bytes(data if damage == "a byte" else data[:-1])
    status, reports = call(main, tmp_path / "out", own)
    assert status == 0 and [line["taken_over"] for line in reports] == [False, True, True]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_damaged_set_lends_nothing_to_a_new_one(own, tmp_path):
    out = tmp_path / "out"
    call(main, out, own | {"limit": 2})
    shard = out / TileSet.open(out).manifest["shards"]["train"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    status, _ = call(main, out, own)
    TileSet.open(out).verify()
    assert status == 0


def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(own, tmp_path, monkeypatch):
    import data_prep.engine.cut as cut_module

    old = cut_module.draw_thumbnail

    def full(task, *arguments):
        if task.job.key == "b.tif":
            raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
        return old(task, *arguments)

    monkeypatch.setattr(cut_module, "draw_thumbnail", full)
    with pytest.raises(OSError, match="No space left on device"):
        call(main, tmp_path / "out", own)
    assert len(list((tmp_path / "out.parts").glob("a.tif*/part.json"))) == 1
    monkeypatch.undo()
    _, reports = call(main, tmp_path / "out", own)
    assert [line["taken_over"] for line in reports] == [True, False, False]


def test_files_of_others_in_the_report_stay(own, tmp_path):
    thumbnails = tmp_path / "out-report" / "thumbnails"
    (thumbnails / "folder").mkdir(parents=True)
    (thumbnails / "mine.png").write_text("")
    call(main, tmp_path / "out", own)
    assert (thumbnails / "mine.png").exists() and (thumbnails / "folder").is_dir()


def test_other_colours_change_the_manifest_only(own, tmp_path):
    out = tmp_path / "out"
    call(main, out, own)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    status, reports = call(main, out, own | {"classes": "stroma=Stroma,tumour:#010203=Tumor"})
    assert status == 0 and all(line["taken_over"] for line in reports)
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"manifest.json"}
    assert TileSet.open(out).classes[1].color == (1, 2, 3)


def test_many_notes_on_a_slide_are_counted():
    report = SlideReport("a", "a", "P", "train", left_out=[str(i) for i in range(1000)])
    for _ in range(2):
        report.shorten()
        assert report.left_out[49:] == ["49", "and 950 more like these"]


@pytest.mark.slow
def test_workers_of_a_cluster_in_another_folder(own, tmp_path):
    """Two worker processes that were started elsewhere pack what the command names by relative
    paths."""
    distributed = pytest.importorskip("distributed")
    call(main, tmp_path / "whole", own)
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import sys, distributed\n"
        "if __name__ == '__main__':\n"
        "    settings = {'n_workers': 2, 'threads_per_worker': 1, 'dashboard_address': None}\n"
        "    with distributed.LocalCluster(**settings) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    (tmp_path / "cluster.py").write_text(code)
    line, pipe = [sys.executable, str(tmp_path / "cluster.py")], subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    cluster = subprocess.Popen(
        line, cwd=tmp_path / "elsewhere", env=environment, stdin=pipe, stdout=pipe, text=True
    )
    try:
        address = cluster.stdout.readline().strip()
        relative = {
            name: value.relative_to(tmp_path) if isinstance(value, Path) else value
            for name, value in own.items()
        }
        flags = [f"--{name}={value}" for name, value in relative.items()]
        command = [
            sys.executable,
            "-m",
            "data_prep.slides",
            *flags,
            "--out=out",
            f"--scheduler={address}",
        ]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
    finally:
        cluster.communicate(timeout=30)
    assert done.returncode == 0, done.stderr
    assert distributed and content(tmp_path / "out") == content(tmp_path / "whole")
