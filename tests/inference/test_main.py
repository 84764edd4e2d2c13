"""The command, with a segmenter that needs no training; with a trained one it runs in
tests/test_whole_run.py."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from jax.errors import JaxRuntimeError
from PIL import Image

from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import ClassSpec
from stedm_jax.data.whole import WholeWriter
from stedm_jax.evaluation.objects import to_objects
from stedm_jax.inference import trained_segmenter
from stedm_jax.inference.__main__ import main
from tests.inference.fakes import COLORS, discs, image_of, red, segmenter


@pytest.fixture(autouse=True)
def faked(monkeypatch):
    monkeypatch.setattr(trained_segmenter, "load_segmenter", lambda folder, arm, seed: segmenter())


@pytest.fixture
def whole(tmp_path):
    """Two test images and one of validation, at twice the resolution of the segmenter."""
    classes = (ClassSpec("rest", COLORS[0]), ClassSpec("gland", COLORS[1]))
    with WholeWriter(tmp_path / "whole", classes) as out:
        for name, split, part in (
            ("a", "test", "testA"),
            ("b", "test", "testB"),
            ("c", "val", "train"),
        ):
            mask = discs()
            Image.fromarray(image_of(mask)).save(tmp_path / f"{name}.png")
            numbers = to_objects(mask > 0)
            tags = {"official_split": part}
            out.write(
                tmp_path / f"{name}.png",
                mask,
                numbers,
                patient=f"p{name}",
                split=split,
                mpp=0.5,
                tags=tags,
            )
    return tmp_path / "whole"


def command(tmp_path, images, *more):
    return main([f"--workdir={tmp_path}", f"--images={images}", f"--out={tmp_path / 'out'}", *more])


def test_whole_images_with_truth_are_scored(whole, tmp_path, capsys):
    assert command(tmp_path, whole, "--objects", "--hole=0") == 0
    mask = Image.open(tmp_path / "out/a.png")
    assert mask.mode == "P" and mask.getpalette()[3:6] == list(COLORS[1])
    assert (np.asarray(mask) != discs()).mean() < 0.01
    objects = np.asarray(Image.open(tmp_path / "out/a_objects.png"))
    assert (
        objects.max() == 2
        and len(json.loads((tmp_path / "out/a.geojson").read_text())["features"]) == 2
    )
    said = json.loads((tmp_path / "out/summary.json").read_text())
    assert list(said) == ["test/testA", "test/testB", "all"]
    pooled = said["all"]["pooled"]
    assert (
        pooled["object_f1"] == 1.0
        and pooled["object_dice"] > 0.97
        and pooled["object_hausdorff"] < 3
    )
    assert pooled["miou"] > 0.95 and pooled["accuracy"] > 0.98
    with (tmp_path / "out/patients.csv").open() as file:
        assert [row["patient"] for row in csv.DictReader(file)] == ["pa", "pb"]
    assert "test/testB" in capsys.readouterr().out and not (tmp_path / "out/c.png").exists()


def test_plain_images_with_masks_beside(tmp_path):
    (tmp_path / "images/below").mkdir(parents=True)
    (tmp_path / "truth/below").mkdir(parents=True)
    for name in ("x", "below/y"):
        Image.fromarray(image_of(discs())).save(tmp_path / f"images/{name}.png")
        Image.fromarray(discs()).save(tmp_path / f"truth/{name}.png")
    assert command(tmp_path, tmp_path / "images", f"--truth={tmp_path / 'truth'}", "--mpp=1") == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/below/y.png")), discs())
    said = json.loads((tmp_path / "out/summary.json").read_text())
    assert said["all"]["images"] == 2 and said["all"]["pooled"]["accuracy"] == 1.0
    assert not (tmp_path / "out/x_objects.png").exists()


def test_slides_say_their_resolution_and_outlines_are_in_their_pixels(tmp_path):
    big = np.kron(image_of(discs()), np.ones((4, 4, 1), np.uint8))
    write_pyramid(tmp_path / "s.tif", big, 0.25, quality=95)
    assert command(tmp_path, tmp_path / "s.tif", "--region=0,0,520,360", "--hole=0") == 0
    assert (np.asarray(Image.open(tmp_path / "out/s.png")) != discs()).mean() < 0.02
    rings = [
        f["geometry"]["coordinates"]
        for f in json.loads((tmp_path / "out/s.geojson").read_text())["features"]
    ]
    assert max(np.max(each[0]) for each in rings) == pytest.approx((100 + 19) * 4, abs=8)
    assert sorted(len(each) for each in rings) == [1, 2]


def test_bad_images_stop_no_other(whole, tmp_path, capsys):
    (whole / "images/a.png").write_bytes(b"damaged")
    assert command(tmp_path, whole) == 1
    said = capsys.readouterr()
    assert "[1/2] a failed" in said.err and "is missing, damaged or was changed" in said.err
    assert "1 of 2 images are segmented" in said.out
    lines = [json.loads(line) for line in (tmp_path / "out/report.jsonl").read_text().splitlines()]
    assert "error" in lines[0] and lines[1]["objects"] == 2
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"")
    (folder / "y.svs").write_bytes(b"")
    assert command(tmp_path, folder, "--mpp=0.5") == 2


def test_an_image_that_the_device_fails_on_loses_no_scores(whole, tmp_path, monkeypatch, capsys):
    calls = []

    def predict(images):
        calls.append(len(images))
        if len(calls) > 1:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return red(images)

    monkeypatch.setattr(trained_segmenter, "load_segmenter", lambda *_: segmenter(predict=predict))
    assert command(tmp_path, whole, "--batch=64") == 1
    assert "b failed: " in (said := capsys.readouterr()).err and "RESOURCE_EXHAUSTED" in said.err
    with (tmp_path / "out/images.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a"]


def test_patients_that_were_learned_from_are_scored_only_if_asked_for(
    whole, tmp_path, monkeypatch, capsys
):
    one = replace(segmenter(), learnt={"segmentation": ["pc"], "ssl": ["pb"]})
    monkeypatch.setattr(trained_segmenter, "load_segmenter", lambda *_: one)
    with pytest.raises(UserError, match="'pb' by ssl. .*give --allow_seen"):
        command(tmp_path, whole)
    assert not (tmp_path / "out").exists()
    assert command(tmp_path, whole, "--allow_seen") == 0
    assert "not held out, their scores are no evidence: 'pb' by ssl" in capsys.readouterr().out


def test_what_is_refused_before_anything_runs(whole, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(image_of(discs())).save(folder / "x.png")
    for images, options, text in (
        (folder, [], r"x\.png do not say their microns per pixel; give them: --mpp"),
        (folder, ["--mpp=900"], "no microscope.*0.05 to 5"),
        (folder, ["--mpp=1", "--region=1,2"], "X,Y,WIDTH,HEIGHT"),
        (folder, ["--mpp=1", "--overlap=0.7"], r"overlap is 0\.5 at most"),
        (folder, ["--mpp=1", "--least=-1"], "is an area in square microns; give 0 or more"),
        (folder, ["--mpp=1", "--simplify=nan"], "is a length in microns"),
        (folder, ["--mpp=1", "--table=t.csv"], "give --truth too"),
        (folder, ["--mpp=1", "--region=0,0,9,9"], "has none; leave it out"),
        (folder, ["--mpp=1", f"--truth={tmp_path}"], r"no mask of these images; one is .*x\.png"),
        (tmp_path / "none", ["--mpp=1"], "There is no .*none"),
        (whole, ["--splits=train"], "has test, val"),
        (whole, [f"--truth={folder}"], "holds its truth already"),
    ):
        with pytest.raises(UserError, match=text):
            command(tmp_path, images, *options)
    assert not (tmp_path / "out").exists()


def test_other_classes_are_refused(tmp_path):
    Image.fromarray(image_of(discs())).save(tmp_path / "a.png")
    with WholeWriter(
        tmp_path / "other", (ClassSpec("rest", (0, 0, 0)), ClassSpec("tumour", (1, 1, 1)))
    ) as out:
        out.write(tmp_path / "a.png", discs(), None, patient="p", split="test", mpp=0.5, tags={})
    with pytest.raises(UserError, match="names gland; the tile set has rest, tumour"):
        command(tmp_path, tmp_path / "other")


def test_nothing_is_written_over_what_is_read(whole, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(image_of(discs())).save(folder / "A.png")
    before = (folder / "A.png").read_bytes()
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, tmp_path / "link", tmp_path / "images/../images"):
        with pytest.raises(UserError, match=r"A\.png would be written over .*A\.png, which"):
            command(tmp_path, folder, "--mpp=1", f"--out={out}")
        with pytest.raises(UserError, match="would be written over"):
            command(tmp_path, folder / "A.png", "--mpp=1", f"--out={out}")
    truth = tmp_path / "truth"
    truth.mkdir()
    Image.fromarray(discs()).save(truth / "A.png")
    with pytest.raises(UserError, match="would be written over"):
        command(tmp_path, folder, "--mpp=1", f"--truth={truth}", f"--out={truth}")
    for part in ("images", "masks", "instances"):
        with pytest.raises(UserError, match="would be written over"):
            command(tmp_path, whole, f"--out={whole / part}")
    assert [path.name for path in folder.iterdir()] == ["A.png"]
    assert (folder / "A.png").read_bytes() == before
    assert not (folder / "report.jsonl").exists()


def test_nothing_of_another_program_is_overwritten(tmp_path):
    """Masks drawn by hand, outlines of QuPath and tables have the names of results."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(image_of(discs())).save(folder / "A.jpg")
    for name in ("A.png", "A.geojson", "images.csv", "report.jsonl"):
        out = tmp_path / name.replace(".", "_")
        out.mkdir()
        (out / name).write_bytes(b"made by hand")
        with pytest.raises(UserError, match=f"{name} is there already and was not written by this"):
            command(tmp_path, folder, "--mpp=1", f"--out={out}")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; give a folder"):
        command(tmp_path, folder, "--mpp=1", f"--out={tmp_path / 'file'}")
    Image.fromarray(image_of(discs())).save(folder / "A_objects.jpg")
    with pytest.raises(UserError, match="A and A_objects would both give .*A_objects.png"):
        command(tmp_path, folder, "--mpp=1", "--objects")
    for _ in range(2):  # its own results it overwrites
        assert command(tmp_path, folder, "--mpp=1") == 0


def test_results_within_the_folder_of_images_are_not_segmented_again(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(image_of(discs())).save(folder / "A.png")
    (folder / "._A.png").write_bytes(b"\0\5\x16\7" + bytes(200))
    for again in range(2):
        options = ("--mpp=1", "--objects", f"--out={folder / 'masks'}")
        assert command(tmp_path, folder, *options) == 0
        said = capsys.readouterr()
        assert "1 of 1 images are segmented" in said.out
        assert ("3 results of" in said.err) == bool(again)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert found == ["._A.png", "A.png", "masks/A.png", "masks/A_objects.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "masks/A.png")), discs())


@pytest.mark.parametrize("levels", [1, 2])
def test_a_damaged_place_of_a_slide_is_named_and_stops_no_other(tmp_path, capsys, levels):
    """One level is read through tifffile, two through OpenSlide."""
    folder = tmp_path / "slides"
    folder.mkdir()
    image = image_of(discs(256, 256))
    path = folder / ("a.tif" if levels > 1 else "a.ome.tif")
    with tifffile.TiffWriter(path, ome=levels == 1) as file:
        for step in (1, 2)[:levels]:
            about = {"metadata": None} if levels > 1 else {"metadata": {"PhysicalSizeX": 1.0}}
            file.write(
                image[::step, ::step],
                photometric="rgb",
                tile=(64, 64),
                compression="zlib",
                subfiletype=int(step > 1),
                resolution=(10000 / step, 10000 / step),
                resolutionunit="CENTIMETER",
                **about,
            )
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    Image.fromarray(image_of(discs())).save(folder / "b.png")
    assert command(tmp_path, folder, "--mpp=1") == 1
    said = capsys.readouterr()
    assert "failed" in said.err and f"{path.name} is damaged at " in said.err
    assert "x " in said.err and "1 of 2 images are segmented" in said.out
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/b.png")), discs())
    lines = [json.loads(line) for line in (tmp_path / "out/report.jsonl").read_text().splitlines()]
    assert ["error" in line for line in lines] == [True, False]


def test_images_are_segmented_as_viewers_show_them(tmp_path):
    """A turned image gives a turned mask, and what is transparent is no red."""
    folder = tmp_path / "images"
    folder.mkdir()
    about = Image.Exif()
    about[0x0112] = 6
    Image.fromarray(np.rot90(image_of(discs())).copy()).save(folder / "a.png", exif=about)
    clear = np.where(discs()[..., None] > 0, 255, 0).astype(np.uint8)
    red_below = np.zeros_like(image_of(discs())) + np.array([200, 0, 0], np.uint8)
    Image.fromarray(np.dstack([red_below, clear])).save(folder / "b.png")
    assert command(tmp_path, folder, "--mpp=1", "--hole=0", "--least=0") == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), discs())
    assert np.asarray(Image.open(tmp_path / "out/b.png")).shape == discs().shape
