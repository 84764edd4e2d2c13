import re

import cv2
import numpy as np
import pytest
import tifffile

from data_prep.folder import main
from data_prep.image_with_mask import Picture, fit_picture, scale_picture
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import core
from stedm_jax.data.styles import StylePool
from stedm_jax.imaging.label_file import read_mask
from tests.data_prep.conftest import call

SPLITS = ("train", "val", "test", "style")


@pytest.fixture
def folder(tmp_path):
    """Four images of 100x70 pixels, one a split, masks of 0 and 1."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    lines = ["image,mask,patient,split,grade"]
    for i, split in enumerate(SPLITS):
        cv2.imwrite(
            str(tmp_path / "images" / f"{i}.png"),
            rng.integers(0, 256, (70, 100, 3)).astype(np.uint8),
        )
        cv2.imwrite(
            str(tmp_path / "masks" / f"{i}.png"), rng.integers(0, 2, (70, 100)).astype(np.uint8)
        )
        lines.append(f"{i}.png,{'' if split == 'style' else f'{i}.png'},P{i},{split},high")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return tmp_path


def run(folder, **changes):
    options = {
        "images": folder / "images",
        "masks": folder / "masks",
        "table": folder / "t.csv",
        "tile": 32,
        "mpp": 1.0,
        "classes": "background,gland",
        "workers": 1,
    } | changes
    return call(main, folder / "out", options)


def counts(reports):
    found = {report["split"]: 0 for report in reports}
    for report in reports:
        found[report["split"]] += report["tiles"]
    return found


def edit(folder, old, new):
    text = (folder / "t.csv").read_text()
    assert old in text
    (folder / "t.csv").write_text(text.replace(old, new))


def test_packs(folder):
    status, reports = run(folder)
    tiles = TileSet.open(folder / "out")
    assert status == 0 and counts(reports) == {"train": 12, "val": 12, "test": 12, "style": 12}
    tile = tiles.read("train", 1)
    image = cv2.imread(str(folder / "images" / "0.png"))[..., ::-1]
    np.testing.assert_array_equal(tile.image, image[tile.y : tile.y + 32, tile.x : tile.x + 32])
    assert tile.tags == {"grade": "high"} and tile.patient == "P0" and tile.mpp == 1.0
    assert np.all(tiles.read("style", 0).mask == VOID)


@pytest.mark.parametrize("margin", [0, 8])
def test_judged_pixels_count_once(folder, margin):
    """In val and test the tiles hold every labeled pixel once; in train the overlap is labeled in
    both."""
    run(folder, margin=margin)
    tiles = TileSet.open(folder / "out")
    for number, split in enumerate(("train", "val", "test")):
        mask = cv2.imread(str(folder / "masks" / f"{number}.png"), cv2.IMREAD_GRAYSCALE)
        counted = np.zeros(mask.shape, int)
        for record in range(len(tiles.index(split))):
            tile = tiles.read(split, record)
            part = core(tile.mask, margin)
            known = part != VOID
            box = np.s_[tile.y : tile.y + 32, tile.x : tile.x + 32]
            np.testing.assert_array_equal(part[known], mask[box][known])
            counted[box] += known
        assert counted.min() == 1
        assert (counted.max() == 1) == (split != "train")


def test_margins_are_the_image_round_the_tile_and_its_mirror_beyond(folder):
    run(folder, margin=8)
    tiles = TileSet.open(folder / "out")
    image = np.pad(
        cv2.imread(str(folder / "images" / "0.png"))[..., ::-1],
        [(8, 8), (8, 8), (0, 0)],
        mode="reflect",
    )
    mask = cv2.imread(str(folder / "masks" / "0.png"), cv2.IMREAD_GRAYSCALE)
    mask = np.pad(mask, 8, constant_values=VOID)
    assert tiles.margin == 8 and tiles.tile == 32
    for record in range(12):
        tile = tiles.read("train", record)
        box = np.s_[tile.y : tile.y + 48, tile.x : tile.x + 48]
        np.testing.assert_array_equal(tile.image, image[box])
        np.testing.assert_array_equal(tile.mask, mask[box])


def test_counts_of_val_equal_the_mask(folder):
    run(folder)
    mask = cv2.imread(str(folder / "masks" / "1.png"), cv2.IMREAD_GRAYSCALE)
    pixels = np.sum([row.pixels for row in TileSet.open(folder / "out").index("val")], axis=0)
    np.testing.assert_array_equal(pixels, np.bincount(mask.ravel()))


def test_scales_images_by_area_and_masks_by_nearest():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    mask = np.kron(np.random.default_rng(1).integers(0, 2, (20, 30)), np.ones((3, 3))).astype(
        np.uint8
    )
    small = scale_picture(Picture(image, mask), 3.0)
    np.testing.assert_allclose(
        small.image, image.reshape(20, 3, 30, 3, 3).mean((1, 3)), atol=0.5001
    )
    np.testing.assert_array_equal(small.mask, mask[1::3, 1::3])


def test_two_resolutions(folder):
    run(folder, source_mpp=0.5, mpp=1.0)
    tiles = TileSet.open(folder / "out")
    assert tiles.mpp == 1.0 and [(row.x, row.y) for row in tiles.index("train")] == [
        (0, 0),
        (36, 0),
        (0, 6),
        (36, 6),
    ]


def test_fit_makes_the_short_side_one_tile(folder):
    run(folder, fit=True)
    assert len(TileSet.open(folder / "out").index("train")) == 2
    assert fit_picture(
        Picture(np.zeros((70, 100, 3), np.uint8), np.zeros((70, 100), np.uint8)), 32
    ).mask.shape == (
        32,
        46,
    )


def test_masks_of_0_and_255(folder):
    for i in range(3):
        path = str(folder / "masks" / f"{i}.png")
        cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_GRAYSCALE) * 255)
    with pytest.raises(UserError, match="--values=0,255"):
        run(folder)
    assert not (folder / "out").exists()
    run(folder, values="0,255")
    assert min(TileSet.open(folder / "out").read("train", 0).mask.ravel()) == 0
    assert max(TileSet.open(folder / "out").read("train", 0).mask.ravel()) == 1


def test_palette_masks_count_by_index(tmp_path):
    from PIL import Image

    ids = np.array([[0, 1], [2, 1]], np.uint8)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200] + [0] * 759)
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (0, 1, 2)), ids)


def test_a_mask_of_another_size(folder):
    cv2.imwrite(str(folder / "masks" / "1.png"), np.zeros((70, 99), np.uint8))
    status, reports = run(folder)
    assert status == 1 and re.search(r"masks/1\.png is 99x70 pixels.*100x70", reports[1]["error"])
    assert TileSet.open(folder / "out").splits == ("train", "test", "style")


def test_a_class_id_out_of_range(folder):
    cv2.imwrite(str(folder / "masks" / "0.png"), np.full((70, 100), 7, np.uint8))
    assert re.search(r"masks/0\.png holds the value 7.*valid are 0, 1", run(folder)[1][0]["error"])


def test_a_colored_mask(folder):
    cv2.imwrite(
        str(folder / "masks" / "0.png"),
        np.random.default_rng(0).integers(0, 2, (70, 100, 3)).astype(np.uint8),
    )
    assert "masks/0.png is colored" in run(folder)[1][0]["error"]


def test_a_mask_of_floating_point(folder):
    """Refused even though all of its numbers are whole: it may be rounded probabilities."""
    tifffile.imwrite(folder / "masks" / "0.tif", np.ones((70, 100), np.float32))
    edit(folder, "0.png,0.png", "0.png,0.tif")
    assert "masks/0.tif holds numbers of type float32" in run(folder)[1][0]["error"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("1.png,1.png", "/1.png,1.png", "must be a path within its folder"),
        ("1.png,1.png", "1.png,../masks/1.png", "mask='../masks/1.png' must be a path within"),
        ("image,mask", "picture,mask", "no column image"),
        ("image,mask", "image,masque", "no column mask"),
        ("P1,val", "P0,val", "'P0' in train and val"),
        ("P1,val", "P1,valid", "unknown split 'valid'"),
    ],
)
def test_wrong_tables(folder, old, new, says):
    edit(folder, old, new)
    with pytest.raises(UserError, match=says):
        run(folder)


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("1.png,gone.png", "1.png .*has no mask"),
        ("1.png,", "1.png .*has no mask"),
        ("none.png,1.png", "none.png is not in --images"),
    ],
)
def test_a_bad_row_stops_no_other(folder, new, says):
    edit(folder, "1.png,1.png", new)
    status, reports = run(folder)
    assert status == 1 and re.search(says, reports[1]["error"])
    assert [bool(line["error"]) for line in reports] == [False, True, False, False]


def test_a_second_page_is_noted(folder):
    pages = [cv2.imread(str(folder / "images" / "0.png"))[..., ::-1], np.zeros((20, 30, 3), "u1")]
    with tifffile.TiffWriter(folder / "images" / "0.tif") as file:
        for page in pages:
            file.write(page, photometric="rgb", metadata=None)
    edit(folder, "0.png,0.png", "0.tif,0.png")
    status, reports = run(folder)
    assert status == 0 and "1 other pictures (30x20 pixels)" in reports[0]["left_out"][0]
    assert all(not report["left_out"] for report in reports[1:])


def test_an_unreadable_image(folder):
    (folder / "images" / "2.png").write_bytes(b"\x89PNG nothing")
    status, reports = run(folder)
    assert status == 1 and "images/2.png cannot be read" in reports[2]["error"]
    cv2.imwrite(str(folder / "images" / "2.png"), np.zeros((70, 100, 3), np.uint8))
    status, reports = run(folder)
    assert status == 0 and [report["taken_over"] for report in reports] == [True, True, False, True]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mpp": None}, "how many microns"),
        ({"mpp": 0.5, "source_mpp": 1.0}, "cannot give 0.5"),
        ({"mpp": 50, "source_mpp": 25}, "25 um per pixel, which is outside 0.05 to 5"),
        ({"mpp": 500, "source_mpp": 1.0}, "--mpp=500"),
        ({"values": "0"}, "2 different numbers"),
        ({"masks": "nowhere"}, "--masks: nowhere is no folder"),
    ],
)
def test_wrong_options(folder, changes, says):
    with pytest.raises(UserError, match=says):
        run(folder, **changes)


def test_images_smaller_than_a_tile(folder):
    status, reports = run(folder, tile=80)
    assert status == 2 and "100x70 pixels at 1 um, smaller than a tile of 80" in reports[0]["error"]
    assert not (folder / "out").exists()


@pytest.mark.data
def test_glas(real_data, tmp_path):
    glas = real_data / "glas"
    table = tmp_path / "t.csv"
    lines = (glas / "index.csv").read_text().splitlines()
    table.write_text("\n".join([lines[0], *lines[1:12]]))
    patients = {line.split(",")[3] for line in lines[1:12]}
    splits = "train:" + ",".join(sorted(patients))
    changes = {
        "images": glas,
        "masks": glas,
        "source_mpp": 0.62,
        "mpp": 1.24,
        "tile": 128,
        "splits": splits,
    }
    _, reports = run(tmp_path, **changes)
    tile = TileSet.open(tmp_path / "out").read("train", 0)
    assert counts(reports)["train"] > 40 and tile.tags["grade_glas"] in ("benign", "malignant")


def cut_tiles(folder, places, split="val", **columns):
    """Images of 48x48 cut from one made-up slide at places x, y, and a table that says so."""
    rng = np.random.default_rng(7)
    slide = rng.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    labels = rng.integers(0, 2, (200, 200)).astype(np.uint8)
    lines = ["image,mask,patient,split,slide,x,y"]
    for number, (x, y) in enumerate(places):
        box = np.s_[y : y + 48, x : x + 48]
        cv2.imwrite(str(folder / "images" / f"t{number}.png"), slide[box][..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"t{number}.png"), labels[box])
        lines.append(f"t{number}.png,t{number}.png,P1,{split},S1,{x},{y}")
    (folder / "t.csv").write_text("\n".join(lines))
    return slide, labels


@pytest.mark.parametrize("split", ["val", "train"])
def test_tiles_that_were_cut_before_are_one_slide_and_count_once(folder, split, capsys):
    places = [(40, 0), (0, 0), (20, 20), (100, 100), (100, 100), (0, 40)]
    slide, labels = cut_tiles(folder, places, split)
    status, reports = run(folder, tile=48)
    tiles = TileSet.open(folder / "out")
    assert status == 0 and {report["slide"] for report in reports} == {"S1"}
    counted = np.zeros(labels.shape, int)
    for row in tiles.index(split):
        tile = tiles.read(split, row.record)
        assert (tile.slide, row.extent) == ("S1", 48)
        box = np.s_[row.y : row.y + 48, row.x : row.x + 48]
        np.testing.assert_array_equal(tile.image, slide[box])
        known = tile.mask != VOID
        np.testing.assert_array_equal(tile.mask[known], labels[box][known])
        counted[box] += known
    covered = np.zeros(labels.shape, bool)
    for x, y in places:
        covered[y : y + 48, x : x + 48] = True
    np.testing.assert_array_equal(counted > 0, covered)
    printed = capsys.readouterr().out
    if split == "val":
        assert counted.max() == 1 and len(tiles.index(split)) == 5
        assert "3 images of val and test overlap" in printed and "wholly" in printed
    else:
        assert counted.max() > 1 and len(tiles.index(split)) == 6 and "overlap" not in printed
    assert "every image counts as a slide" not in printed
    pool = StylePool(tiles.index(split), "nearby_grid", "slide", 1)
    positions = {(row.x, row.y): i for i, row in enumerate(tiles.index(split))}
    chosen = pool.choose(positions[0, 0], np.random.default_rng(0))
    assert chosen[0] in {positions[place] for place in ((40, 0), (20, 20), (0, 40))}


def test_tiles_that_are_scaled_keep_their_places(folder):
    cut_tiles(folder, [(0, 0), (24, 0)])
    run(folder, tile=24, source_mpp=0.5, mpp=1.0)
    tiles = TileSet.open(folder / "out")
    assert [(row.x, row.y, row.extent) for row in tiles.index("val")] == [(0, 0, 48), (24, 0, 48)]
    assert [row.labelled for row in tiles.index("val")] == [24 * 24, 12 * 24]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("S1,40,0", "S1,40,", "belong together.* lines 3"),
        ("S1,40,0", ",40,0", "belong together.* lines 3"),
        ("S1,40,0", "S1,4.5,0", "whole numbers; not so in lines 3"),
        ("P1,val,S1,40,0", "P2,test,S1,40,0", "'P1' in line 2 and of 'P2' in line 3"),
    ],
)
def test_wrong_places_are_refused(folder, old, new, says):
    cut_tiles(folder, [(0, 0), (40, 0)])
    edit(folder, old, new)
    with pytest.raises(UserError, match=says):
        run(folder, tile=48)


def test_what_is_not_used_or_assumed_is_said(folder, capsys):
    edit(folder, "3.png,,", "3.png,3.png,")
    run(folder)
    printed = capsys.readouterr().out
    assert "every image counts as a slide" in printed
    assert (
        "1 rows of the split style have a mask that is not used" in printed and "3.png" in printed
    )
