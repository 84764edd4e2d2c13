import cv2
import numpy as np
import pytest

from data_prep.folder import cut_picture, pack, parse_args
from data_prep.images import Picture, fit_picture, read_mask, scale_picture
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import VOID
from stedm_jax.errors import UserError

SPLITS = ("train", "val", "test", "style")


@pytest.fixture
def folder(tmp_path):
    """Four images of 100x70 pixels, one a split, masks of 0 and 1."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    lines = ["image,mask,patient,split,grade"]
    for i, split in enumerate(SPLITS):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), rng.integers(0, 256, (70, 100, 3)).astype(np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), rng.integers(0, 2, (70, 100)).astype(np.uint8))
        lines.append(f"{i}.png,{'' if split == 'style' else f'{i}.png'},P{i},{split},high")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return tmp_path


def run(folder, **changes):
    options = {
        "images": folder / "images", "masks": folder / "masks", "table": folder / "t.csv", "tile": 32,
        "mpp": 1.0, "classes": "background,gland", "out": folder / "out"} | changes  # fmt: skip
    flags = [f"--{name}={value}" if value is not True else f"--{name}" for name, value in options.items()]
    return pack(parse_args([flag for flag in flags if not flag.endswith("=None")]), quiet=True)


def edit(folder, old, new):
    text = (folder / "t.csv").read_text()
    assert old in text
    (folder / "t.csv").write_text(text.replace(old, new))


def test_packs(folder):
    counts = run(folder)
    tiles = TileSet.open(folder / "out")
    assert counts == {"unlabelled": 0, "train": 12, "val": 12, "test": 12, "style": 12}
    tile = tiles.read("train", 1)
    image = cv2.imread(str(folder / "images" / "0.png"))[..., ::-1]
    np.testing.assert_array_equal(tile.image, image[tile.y : tile.y + 32, tile.x : tile.x + 32])
    assert tile.tags == {"grade": "high"} and tile.patient == "P0" and tile.mpp == 1.0
    assert np.all(tiles.read("style", 0).mask == VOID)


def test_judged_pixels_count_once():
    """In val and test the tiles hold every labelled pixel once; in train the overlap is labelled in both."""
    mask = np.random.default_rng(0).integers(0, 3, (75, 110)).astype(np.uint8)
    picture = Picture(np.zeros((75, 110, 3), np.uint8), mask)
    for once in (True, False):
        counted = np.zeros(mask.shape, int)
        for y, x, part in cut_picture(picture, 32, 32, once):
            known = part.mask != VOID
            np.testing.assert_array_equal(part.mask[known], mask[y : y + 32, x : x + 32][known])
            counted[y : y + 32, x : x + 32] += known
        assert counted.min() == 1
        assert (counted.max() == 1) == once


def test_counts_of_val_equal_the_mask(folder):
    run(folder)
    mask = cv2.imread(str(folder / "masks" / "1.png"), cv2.IMREAD_GRAYSCALE)
    pixels = np.sum([row.pixels for row in TileSet.open(folder / "out").index("val")], axis=0)
    np.testing.assert_array_equal(pixels, np.bincount(mask.ravel()))


def test_scales_images_by_area_and_masks_by_nearest():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    mask = np.kron(np.random.default_rng(1).integers(0, 2, (20, 30)), np.ones((3, 3))).astype(np.uint8)
    small = scale_picture(Picture(image, mask), 3.0)
    np.testing.assert_allclose(small.image, image.reshape(20, 3, 30, 3, 3).mean((1, 3)), atol=0.5001)
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
    assert fit_picture(Picture(np.zeros((70, 100, 3), np.uint8), np.zeros((70, 100), np.uint8)), 32).mask.shape == (
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
    with pytest.raises(UserError, match=r"masks/1\.png is 99x70 pixels.*100x70"):
        run(folder)
    assert not (folder / "out").exists()


def test_a_class_id_out_of_range(folder):
    cv2.imwrite(str(folder / "masks" / "0.png"), np.full((70, 100), 7, np.uint8))
    with pytest.raises(UserError, match=r"masks/0\.png holds the value 7.*valid are 0, 1"):
        run(folder)


def test_a_coloured_mask(folder):
    cv2.imwrite(
        str(folder / "masks" / "0.png"),
        np.random.default_rng(0).integers(0, 2, (70, 100, 3)).astype(np.uint8),
    )
    with pytest.raises(UserError, match=r"masks/0\.png is coloured"):
        run(folder)


@pytest.mark.parametrize(("old", "new", "says"), [
    ("1.png,1.png", "1.png,gone.png", "have no mask.*1.png"),
    ("1.png,1.png", "1.png,", "have no mask.*1.png"),
    ("1.png,1.png", "none.png,1.png", "none.png"),
    ("image,mask", "picture,mask", "no column image"),
    ("image,mask", "image,masque", "no column mask"),
    ("P1,val", "P0,val", "'P0' in train and val"),
    ("P1,val", "P1,valid", "unknown split 'valid'"),
])  # fmt: skip
def test_wrong_tables(folder, old, new, says):
    edit(folder, old, new)
    with pytest.raises(UserError, match=says):
        run(folder)


def test_an_unreadable_image(folder):
    (folder / "images" / "2.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(UserError, match=r"images/2\.png cannot be read"):
        run(folder)


@pytest.mark.parametrize(("changes", "says"), [
    ({"mpp": None}, "how many microns"),
    ({"mpp": 0.5, "source_mpp": 1.0}, "cannot give 0.5"),
    ({"tile": 80}, "100x70 pixels at 1 um, smaller than a tile of 80"),
    ({"values": "0"}, "2 different numbers"),
    ({"masks": "nowhere"}, "--masks=nowhere"),
])  # fmt: skip
def test_wrong_options(folder, changes, says):
    with pytest.raises(UserError, match=says):
        run(folder, **changes)


@pytest.mark.data
def test_glas(real_data, tmp_path):
    glas = real_data / "glas"
    table = tmp_path / "t.csv"
    lines = (glas / "index.csv").read_text().splitlines()
    table.write_text("\n".join([lines[0], *lines[1:12]]))
    patients = {line.split(",")[3] for line in lines[1:12]}
    splits = "train:" + ",".join(sorted(patients))
    changes = {"images": glas, "masks": glas, "source_mpp": 0.62, "mpp": 1.24, "tile": 128, "splits": splits}
    counts = run(tmp_path, **changes)
    tile = TileSet.open(tmp_path / "out").read("train", 0)
    assert counts["train"] > 40 and tile.tags["grade_glas"] in ("benign", "malignant")
