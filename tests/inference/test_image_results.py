"""What the command keeps and drops, how it goes on, and what it says; with a segmenter that needs
no training."""

import csv
import json
import os
import re
import signal
from dataclasses import replace
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.inference import trained_segmenter
from stedm_jax.inference.__main__ import main
from stedm_jax.inference.report_lines import NOT_DONE
from stedm_jax.training.signals import Stopped
from tests.inference.fakes import discs, image_of, red, segmenter

SOURCES = re.compile('src="([^"]*)"')


class Counted:
    """A network that counts its calls, and does something at one of them."""

    def __init__(self, at=0, then=lambda: None):
        self.calls, self.at, self.then = 0, at, then

    def __call__(self, images):
        self.calls += 1
        if self.calls == self.at:
            self.then()
        return red(images)


@pytest.fixture
def use(monkeypatch):
    def use(predict=red, **changes):
        one = replace(segmenter(predict=predict), **changes)
        monkeypatch.setattr(trained_segmenter, "load_segmenter", lambda *_: one)

    use()
    return use


@pytest.fixture
def folder(tmp_path):
    """Three images, each a batch of 64 patches."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(image_of(discs())).save(folder / f"{name}.png")
    return folder


def command(folder, *more):
    out = f"--out={folder.parent / 'out'}"
    return main([f"--workdir={folder}", f"--images={folder}", out, "--mpp=1", "--batch=64", *more])


def lines(folder):
    text = (folder.parent / "out/report.jsonl").read_text()
    return {line["image"]: line for line in map(json.loads, text.splitlines())}


def nuclei(count=30):
    """Squares of 4 x 4 pixels, and one of 20 x 20 with a hole of 4."""
    mask = np.zeros((90, 130), np.uint8)
    for number in range(count):
        y, x = 4 + 8 * (number // 12), 4 + 8 * (number % 12)
        mask[y : y + 4, x : x + 4] = 1
    mask[60:80, 60:80] = 1
    mask[70:72, 70:72] = 0
    return mask


def test_nothing_is_dropped_unless_asked_for_and_what_is_is_said(use, folder, capsys):
    Image.fromarray(image_of(nuclei())).save(folder / "a.png")
    for name in "bc":
        (folder / f"{name}.png").unlink()
    out = folder.parent / "out"
    assert command(folder, "--simplify=0") == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), nuclei())
    assert len(json.loads((out / "a.geojson").read_text())["features"]) == 31
    line, said = lines(folder)["a"], capsys.readouterr().out
    assert line["size"] == [130, 90] and line["filled_um2"] == 0
    assert line["kept"] == {"gland": {"objects": 31, "um2": 30 * 16 + 396}}
    assert line["dropped"] == {"gland": {"objects": 0, "um2": 0}}
    assert "a: 31 objects, 0:0" in said and "no object was dropped" in said
    assert command(folder, "--least=17", "--hole=4", "--simplify=0") == 0
    expected = nuclei(0)
    expected[60:80, 60:80] = 1
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), expected)
    (one,) = json.loads((out / "a.geojson").read_text())["features"]
    assert [len(ring) for ring in one["geometry"]["coordinates"]] == [5]
    line, said = lines(folder)["a"], capsys.readouterr().out
    assert line["dropped"] == {"gland": {"objects": 30, "um2": 480}} and line["filled_um2"] == 4
    assert "a: 1 objects, 30 dropped" in said
    assert "gland        1  400       30          480   54.5%" in said
    assert "30 objects were dropped, smaller than --least=17 um2" in said


def test_pixels_of_dropped_objects_get_their_most_probable_other_class(use, folder):
    maps = np.zeros((1, 1, 1, 3), np.float32) + (0.1, 0.2, 0.7)
    one = replace(segmenter(), names=("rest", "stroma", "gland"), foreground=(2,), colors=())
    use(
        predict=lambda images: np.where(images[..., :1] > 128, maps, (0.9, 0.1, 0.0)),
        names=one.names,
        foreground=one.foreground,
        task=_with(one.task, foreground=(2,)),
        colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
    )
    Image.fromarray(image_of(nuclei())).save(folder / "a.png")
    assert command(folder / "a.png", f"--out={folder.parent / 'out'}", "--least=17") == 0
    mask = np.asarray(Image.open(folder.parent / "out/a.png"))
    np.testing.assert_array_equal(mask == 1, (nuclei() > 0) & (nuclei(0) == 0))
    np.testing.assert_array_equal(mask == 2, nuclei(0) > 0)


def _with(task, **changes):
    for name, value in changes.items():
        setattr(task, name, value)
    return task


def test_where_every_class_has_objects_none_can_be_dropped(use, folder):
    use(foreground=(0, 1))
    with pytest.raises(UserError, match="--least=5 drops objects, and every class"):
        command(folder, "--least=5")
    assert command(folder) == 0


def test_the_same_command_does_what_is_not_done(use, folder, capsys):
    predict = Counted()
    use(predict)
    assert command(folder) == 0 and predict.calls == 3
    before = lines(folder)
    assert command(folder) == 0 and predict.calls == 3 and lines(folder) == before
    said = capsys.readouterr().out
    assert said.count("2 objects, done before") == 3 and "3 of 3 images are segmented" in said
    Image.fromarray(image_of(nuclei())).save(folder / "a.png")  # another image
    (folder.parent / "out/b.geojson").unlink()
    assert command(folder) == 0 and predict.calls == 5
    assert lines(folder)["a"]["objects"] == 31 and list(lines(folder)) == ["a", "b", "c"]
    assert command(folder, "--least=1") == 0 and predict.calls == 8  # other settings
    use(predict, identity="others")
    assert command(folder, "--least=1") == 0 and predict.calls == 11  # other weights
    assert command(folder / "a.png", f"--out={folder.parent / 'out'}", "--hole=1") == 0
    assert sorted(lines(folder)) == ["a", "b", "c"]  # what was not asked for stays


@pytest.fixture
def heard():
    """Ctrl-C, which Python ignores where tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_stopped_what_is_done_is_kept_and_what_is_missing_is_said(
    use, folder, number, capsys, heard
):
    def stop():
        os.kill(os.getpid(), number)
        for _ in range(10**6):
            pass

    use(Counted(2, stop))
    stopped = KeyboardInterrupt if number == signal.SIGINT else Stopped
    with pytest.raises(stopped) as left:
        command(folder)
    assert number == signal.SIGINT or left.value.code == 1
    assert "2 of 3 images are not done; " in capsys.readouterr().out
    found = lines(folder)
    assert found["a"]["objects"] == 2
    assert [found[name]["error"] for name in "bc"] == [NOT_DONE] * 2
    assert sorted(path.name for path in (folder.parent / "out").iterdir()) == [
        "a.geojson",
        "a.png",
        "report.jsonl",
    ]
    predict = Counted()
    use(predict)
    assert command(folder) == 0 and predict.calls == 2
    assert ["error" in line for line in lines(folder).values()] == [False] * 3


def test_a_report_of_a_killed_process_is_gone_on_with(use, folder):
    assert command(folder) == 0
    report = folder.parent / "out/report.jsonl"
    first, second, _ = report.read_text().splitlines()
    report.write_text(f"{first}\n{second[:40]}")
    predict = Counted()
    use(predict)
    assert command(folder) == 0 and predict.calls == 2
    assert list(lines(folder)) == ["a", "b", "c"]


def test_scores_of_what_was_done_before_count(use, folder):
    truth = folder.parent / "truth"
    truth.mkdir()
    for name in "abc":
        Image.fromarray(discs() if name != "b" else 1 - discs()).save(truth / f"{name}.png")
    assert command(folder, f"--truth={truth}") == 0
    files = [folder.parent / "out" / name for name in ("summary.json", "images.csv")]
    whole = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    (folder.parent / "out/c.png").unlink()
    assert command(folder, f"--truth={truth}") == 0
    assert [file.read_text() for file in files] == whole


def test_patients_come_from_a_table(use, folder, capsys):
    truth, table = folder.parent / "truth", folder.parent / "t.csv"
    truth.mkdir()
    for name in "abc":
        Image.fromarray(discs()).save(truth / f"{name}.png")
    assert command(folder, f"--truth={truth}") == 0
    said = capsys.readouterr().out
    assert "Nothing says whose images these are" in said
    assert "\nEach image counts as a patient of its own." in said
    table.write_text("\ufeffimage;patient;center\na.png;p;x\nb;p;x\nc.png;q;y\n")
    options = (f"--truth={truth}", f"--table={table}")
    assert command(folder, *options, "--part=center") == 0
    said = capsys.readouterr().out
    assert "patient of its own" not in said
    with (folder.parent / "out/patients.csv").open() as file:
        rows = [(row["part"], row["patient"], row["images"]) for row in csv.DictReader(file)]
    assert rows == [("x", "p", "2"), ("y", "q", "1")]
    use(learnt={"segmentation": ["q"]})
    with pytest.raises(UserError, match="'q' by segmentation. .*give --allow_seen"):
        command(folder, *options)
    assert command(folder, *options, "--allow_seen") == 0
    assert "not held out" in capsys.readouterr().out
    for text, expected in (
        ("image,patient\na.png,p\n", "no patient of b.png, c.png; add a row"),
        ("slide,patient\na,p\n", "needs the columns image and patient; it has slide, patient"),
        ("image,patient\na,p\na,q\n", "names a twice, and not alike"),
        ("image,patient\n", "no rows"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=expected):
            command(folder, *options)


def test_whatever_fails_on_an_image_stops_no_other(use, folder, capsys):
    def fail():
        raise cv2.error("Insufficient memory: failed to allocate")

    use(Counted(1, fail))
    assert command(folder) == 1
    assert "a failed: " in (said := capsys.readouterr()).err and "Insufficient memory" in said.err
    assert "2 of 3 images are segmented" in said.out
    assert "Insufficient memory" in lines(folder)["a"]["error"]


def test_an_image_that_would_be_too_large_for_the_network_stops_no_other(use, folder, capsys):
    use(mpp=0.01)
    Image.new("RGB", (700, 700)).save(folder / "b.png")
    for name in "ac":
        Image.fromarray(image_of(discs(2, 3))).save(folder / f"{name}.png")
    assert command(folder) == 1
    assert "b.png would have 70000 x 70000 pixels at the 0.01 um" in capsys.readouterr().err


def test_names_that_are_too_long_for_results_stop_no_other(use, folder, capsys):
    (folder / "b.png").rename(folder / f"{'b' * 250}.png")
    (folder / "c.png").rename(folder / f"{'c' * 243}.png")
    assert command(folder) == 1
    assert "more than the 255 bytes" in capsys.readouterr().err
    assert (folder.parent / f"out/{'c' * 243}.geojson").is_file()
    deep = folder.parent.joinpath(*["d" * 60] * 6, "x:y")
    deep.mkdir(parents=True)
    (folder / "a.png").rename(deep / "a:b.png")
    assert command(deep) == 0 and (deep.parent / "out/a:b.geojson").is_file()


def test_other_pictures_in_a_file_are_named(use, folder, capsys):
    with tifffile.TiffWriter(folder / "d.tif") as file:
        for image in (image_of(discs()), image_of(discs(30, 20))):
            file.write(image, photometric="rgb", metadata=None)
    assert command(folder) == 0
    said = capsys.readouterr().out
    assert "d: 2 objects, other pictures in the file are left out: 20 x 30" in said
    assert lines(folder)["d"]["other_pictures"] == [[20, 30]] and said.count("left out") == 1


def test_a_page_of_images_whatever_their_names(use, folder):
    for old, new in (("a", "a<b>&'"), ("b", "b#1?x=%41"), ("c", os.fsdecode(b"\xff"))):
        (folder / f"{old}.png").rename(folder / f"{new}.png")
    assert command(folder, "--write=page") == 0
    text = (folder.parent / "out/slides.html").read_text()
    assert "<h2>a&lt;b&gt;&amp;&#39;</h2>" in text and "of tissue" not in text
    found = [os.fsencode(unquote(each, errors="surrogateescape")) for each in SOURCES.findall(text)]
    there = {os.fsencode(path.name) for path in (folder.parent / "out").glob("*_overlay.png")}
    assert len(found) == 3 and {*found} == there
