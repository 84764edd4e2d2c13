"""Whole slides: tissue only, in bands on the disk, and the files that come of them."""

import csv
import json
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from data_prep.tiff import write_pyramid
from stedm_jax.common.labels import VOID
from stedm_jax.evaluation.objects import classes_in_objects, to_objects
from stedm_jax.inference import outlines, planes, trained_segmenter
from stedm_jax.inference.__main__ import main
from stedm_jax.inference.combine import combined, uncertainty
from stedm_jax.inference.fuse import Patches, fuse_bands, held
from stedm_jax.inference.make_objects import Decided, make_objects
from stedm_jax.inference.outlines import features, features_by_box
from stedm_jax.inference.planes import in_memory, on_disk
from stedm_jax.inference.pyramids import levels_of, write_ome_tiff
from stedm_jax.inference.seen_stain import SeenColors
from tests.inference.fakes import COLORS, segmenter

GLASS, PINK, PURPLE = (243, 243, 243), (235, 150, 190), (170, 60, 140)


def purple(images: np.ndarray) -> np.ndarray:
    """A network for which what takes away green is the foreground."""
    share = 1 - images[..., 1:2].astype(np.float32) / 255
    return np.concatenate([1 - share, share], axis=-1)


@pytest.fixture
def use(monkeypatch):
    one = segmenter(mpp=2.0, predict=purple)
    monkeypatch.setattr(trained_segmenter, "load_segmenter", lambda *_: one)


def draw(path, side=1024):
    """A slide of 1 um: pink tissue with two purple objects on glass."""
    y, x = np.mgrid[:side, :side]
    image = np.empty((side, side, 3), np.uint8)
    image[:] = GLASS
    noise = np.random.default_rng(0).integers(-12, 13, (side, side, 1))
    tissue = (x - 400) ** 2 + (y - 350) ** 2 < 250**2
    image[tissue] = np.clip(np.array(PINK) + noise, 0, 255)[tissue]
    for cx, cy in ((330, 300), (480, 420)):
        image[(x - cx) ** 2 + (y - cy) ** 2 < 60**2] = PURPLE
    write_pyramid(path, image, 1.0, quality=95)
    return tissue


def command(tmp_path, images, *more):
    return main([f"--workdir={tmp_path}", f"--images={images}", f"--out={tmp_path / 'out'}", *more])


def test_only_the_tissue_is_segmented_and_its_pixels_are_those_of_the_whole(use, tmp_path):
    tissue = draw(tmp_path / "s.tif")[::2, ::2]
    assert command(tmp_path, tmp_path / "s.tif", "--write=png,csv") == 0
    found = np.asarray(Image.open(tmp_path / "out/s.png"))
    whole = ["--everywhere", f"--out={tmp_path / 'whole'}"]
    assert command(tmp_path, tmp_path / "s.tif", *whole) == 0
    expected = np.asarray(Image.open(tmp_path / "whole/s.png"))
    known = found != VOID
    np.testing.assert_array_equal(found[known], expected[known])
    assert known[tissue].all() and 0.15 < known.mean() < 0.35 and (expected != VOID).all()
    with (tmp_path / "out/areas.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    gland = 2 * np.pi * 60**2 / 1e6
    assert float(rows["gland"]["mm2"]) == pytest.approx(gland, rel=0.03)
    assert float(rows["gland"]["share"]) == pytest.approx(gland / (np.pi * 0.25**2), rel=0.06)
    assert sum(float(row["share"]) for row in rows.values()) == pytest.approx(1)


def test_every_file_of_a_slide_opens_elsewhere_and_says_the_same(use, tmp_path, monkeypatch):
    """In bands of a few rows, on the disk."""
    monkeypatch.setattr(planes, "BAND_PIXELS", 6000)
    draw(tmp_path / "s.tif")
    assert command(tmp_path, tmp_path / "s.tif", "--write=all", "--tta=flips") == 0
    out = tmp_path / "out"
    mask = np.asarray(Image.open(out / "s.png"))
    with tifffile.TiffFile(out / "s_classes.ome.tif") as file:
        np.testing.assert_array_equal(file.series[0].asarray(), mask)
        assert 'PhysicalSizeX="2.0"' in file.ome_metadata
        assert '<M K="1">gland</M>' in file.ome_metadata
    shown = openslide.OpenSlide(str(out / "s_classes.ome.tif"))
    assert shown.dimensions == (512, 512) and float(shown.properties["openslide.mpp-x"]) == 2.0
    rgb = np.asarray(shown.read_region((0, 0), 0, (512, 512)))[..., :3]
    np.testing.assert_array_equal(rgb[mask < 2], np.array(COLORS, np.uint8)[mask[mask < 2]])
    maps = tifffile.imread(out / "s_probabilities.ome.tif")
    assert maps.shape == (2, 512, 512) and not maps[:, mask == VOID].any()
    np.testing.assert_array_equal(maps.argmax(0)[mask < 2], mask[mask < 2])
    doubt = tifffile.imread(out / "s_uncertainty.ome.tif")
    assert doubt.shape == (2, 512, 512) and doubt[0].max() > 200 and doubt[1].max() <= 1
    shapes = json.loads((out / "s.geojson").read_text())["features"]
    assert len(shapes) == 2 and np.asarray(Image.open(out / "s_objects.png")).max() == 2
    assert np.asarray(Image.open(out / "s_overlay.png")).shape == (512, 512, 3)
    text = (out / "slides.html").read_text()
    assert 'src="s_overlay.png"' in text and "mm² of tissue" in text
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_one_damaged_slide_among_ten_and_the_same_command_again(use, tmp_path, capsys):
    folder = tmp_path / "slides"
    folder.mkdir()
    draw(folder / "0.tif", 600)
    for number in range(1, 10):
        (folder / f"{number}.tif").write_bytes((folder / "0.tif").read_bytes())
    damaged = bytearray((folder / "0.tif").read_bytes())
    damaged[2000:] = bytes(len(damaged) - 2000)
    (folder / "4.tif").write_bytes(damaged)
    assert command(tmp_path, folder) == 1
    assert "9 of 10 images are segmented" in (said := capsys.readouterr()).out
    assert "4 failed" in said.err
    (tmp_path / "out/7.geojson").unlink()  # killed before its last file
    draw(folder / "4.tif", 600)
    assert command(tmp_path, folder) == 0
    said = capsys.readouterr().out
    assert said.count("done before") == 8 and "[5/10] 4: " in said


@pytest.mark.parametrize("grow", [0, 2])
def test_objects_are_those_of_the_whole_whatever_the_bands(tmp_path, monkeypatch, grow):
    rng = np.random.default_rng(3)
    core = rng.random((61, 83)) < 0.55
    classes = np.where(core, rng.integers(1, 3, core.shape), 0).astype(np.uint8)
    rest = np.zeros(core.shape, np.uint8)
    expected = to_objects(core, least=4, hole=3, grow=grow)
    mask = classes_in_objects(classes, expected, (1, 2), rest)
    kept = {}
    for name, pixels, allocate in (("a", 10**6, in_memory), ("b", 300, on_disk(tmp_path))):
        monkeypatch.setattr(planes, "BAND_PIXELS", pixels)
        decided = Decided.empty(core.shape, 3, allocate)
        decided.classes[:], decided.core[:], decided.rest[:] = classes, core, rest
        found = make_objects(decided, (1, 2), allocate, 1.0, hole=3, least=4, grow=grow)
        np.testing.assert_array_equal(found.objects[:] > 0, expected > 0)
        if not grow:  # a pixel as far from two objects may go to either
            np.testing.assert_array_equal(found.objects[:], expected)
            np.testing.assert_array_equal(found.mask[:], mask)
            kept[name] = (found.kept, found.dropped, found.um2, found.filled)
    assert grow or kept["a"] == kept["b"]


@pytest.mark.parametrize("piece", [7, 100])
def test_outlines_are_the_same_object_by_object_and_in_pieces(monkeypatch, piece):
    monkeypatch.setattr(outlines, "PIECE", piece)
    rng = np.random.default_rng(5)
    mask = (np.kron(rng.random((9, 9)) < 0.35, np.ones((4, 4))) > 0).astype(np.uint8)
    objects = to_objects(mask > 0)
    boxes = [
        [np.min(at, 1), np.max(at, 1) + 1]
        for at in (np.array(np.nonzero(objects == k)) for k in range(1, objects.max() + 1))
    ]
    kinds = (("rest", "gland"), COLORS, (1,), 2.0, (3.0, 5.0), 0.0)
    one = list(features(mask, objects, *kinds))
    other = list(features_by_box(mask, objects, np.reshape(boxes, (-1, 4)), *kinds))
    assert len(one) == len(other) > 1
    for first, second in zip(one, other, strict=True):
        shapes = [outlines.shapely.geometry.shape(each["geometry"]) for each in (first, second)]
        assert shapes[0].equals(shapes[1]) and shapes[1].is_valid
        assert first["properties"] == second["properties"]


def test_wanted_cells_have_the_maps_of_the_whole():
    image = np.random.default_rng(0).integers(0, 256, (95, 130, 3), dtype=np.uint8)
    patches = Patches(32, 8, 2, 3)
    calls = []

    def predict(x):
        calls.append(len(x))
        return x[..., :2] / 255.0

    whole = np.concatenate([band for _, band in fuse_bands(predict, held(image), patches)])
    everything = len(calls)
    cells = np.zeros((4, 6), bool)
    cells[2, 3] = cells[1, 5] = True
    found = np.full(whole.shape, np.nan)
    for top, band in fuse_bands(predict, held(image), patches, cells):
        found[top : top + len(band)] = band
    np.testing.assert_array_equal(found[48:72, 72:96], whole[48:72, 72:96])
    np.testing.assert_array_equal(found[24:48, 120:], whole[24:48, 120:])
    assert len(calls) - everything < everything / 3


def test_a_shifted_grid_gives_the_same_classes_away_from_the_edge():
    """A network that looks 2 pixels far, less than the margin, agrees at every pixel."""
    from scipy import ndimage

    image = np.random.default_rng(1).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    image = ndimage.gaussian_filter(image.astype(np.float32), (3, 3, 0))
    image = np.clip((image - image.mean()) * 8 + 128, 0, 255).astype(np.uint8)

    def predict(x):
        smooth = ndimage.uniform_filter(x.astype(np.float64), (0, 5, 5, 0), mode="constant")
        return np.stack([smooth[..., 0], smooth[..., 1]], axis=-1) / 255

    classes = []
    for shift in (0, 11):
        part = image[shift:, shift:]
        bands = fuse_bands(predict, held(part), Patches(32, 8, 2, 4))
        classes.append(np.concatenate([band for _, band in bands]).argmax(-1))
    inner = classes[0][11:, 11:][4:-4, 4:-4]
    assert 0.3 < inner.mean() < 0.7
    assert (inner == classes[1][4:-4, 4:-4]).mean() == 1.0


def test_views_are_brought_back_and_agreement_is_no_doubt():
    one = segmenter(predict=purple)
    patches = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    maps = np.asarray(combined([one], "all").predict(patches))
    np.testing.assert_allclose(maps[..., :2], purple(patches), atol=1e-6)
    entropy, doubt = uncertainty(maps[0], 2, several=True)
    assert entropy.max() > 0.99 and doubt.max() < 1e-5
    assert combined([one]) is one

    sure = [lambda x, k=k: np.eye(2, dtype=np.float32)[np.full(x.shape[:3], k)] for k in (0, 1)]
    both = combined([replace(one, predict=each) for each in sure])
    entropy, doubt = uncertainty(np.asarray(both.predict(patches))[0], 2, several=True)
    np.testing.assert_allclose([entropy, doubt], 1.0, atol=1e-5)


def test_a_pyramid_halves_classes_by_pixel_and_probabilities_by_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(planes, "BAND_PIXELS", 3000)
    image = np.random.default_rng(0).integers(0, 256, (701, 1030), dtype=np.uint8)
    one = levels_of([image], False, on_disk(tmp_path))
    write_ome_tiff(tmp_path / "a.tif", one, ["class"], 0.5, {}, COLORS)
    two = levels_of([image, 255 - image], True, in_memory)
    write_ome_tiff(tmp_path / "b.tif", two, ["p", "q"], 0.5, {})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert [level.shape for level in file.series[0].levels] == [
            (701, 1030),
            (350, 515),
            (175, 257),
        ]
        np.testing.assert_array_equal(file.series[0].levels[1].asarray(), image[::2, ::2][:350])
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        half = file.series[0].levels[1].asarray()
        mean = image[:700].reshape(350, 2, 515, 2).mean((1, 3))
        assert np.abs(half[0] - mean).max() <= 0.5 and half.shape == (2, 350, 515)


def test_ome_zarr_has_the_same_classes(use, tmp_path):
    zarr = pytest.importorskip("zarr")
    pytest.importorskip("ome_zarr")
    draw(tmp_path / "s.tif")
    for _ in range(2):  # it is known as a result
        assert command(tmp_path, tmp_path / "s.tif", "--write=png,zarr") == 0
        (tmp_path / "out/s.png").touch()
        (tmp_path / "out/report.jsonl").write_text("")
    group = zarr.open_group(tmp_path / "out/s_classes.ome.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], np.asarray(Image.open(tmp_path / "out/s.png")))
    about = group.attrs["ome"]["multiscales"][0]
    assert [axis["unit"] for axis in about["axes"]] == ["micrometer"] * 2
    scales = [each["coordinateTransformations"][0]["scale"] for each in about["datasets"]]
    assert scales[0] == [2.0, 2.0] and group.attrs["classes"]["1"] == "gland"


def test_a_slide_far_from_what_was_seen_is_named(monkeypatch, tmp_path, capsys):
    draw(tmp_path / "s.tif")
    own = np.array([8.0, -0.1, 0.1])
    seen = SeenColors(own, np.full(3, 0.05))
    assert seen.distance(own + [0.15, -0.15, 0.15]) == pytest.approx(3.0)
    for mpp, colors, count in ((2.0, seen, 1), (0.5, None, 1)):
        one = segmenter(mpp=mpp, predict=purple)
        one = replace(one, seen=lambda colors=colors: colors)
        monkeypatch.setattr(trained_segmenter, "load_segmenter", lambda *_, one=one: one)
        assert command(tmp_path, tmp_path / "s.tif", "--region=200,200,300,300") == 0
        line = json.loads((tmp_path / "out/report.jsonl").read_text())
        assert len(line["warnings"]) == count and "note that it" in capsys.readouterr().err
        assert (line["stain_distance"] or 0) > 3 or "enlarged 2.00 times" in line["warnings"][0]
