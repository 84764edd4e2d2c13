import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from data_prep.export import export, main, parse_args
from data_prep.exporting.areas import areas_of
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import ClassSpec, core
from tests.conftest import make_tile, written

CLASSES = (
    ClassSpec("background", (230, 230, 230)),
    ClassSpec("tumour", (200, 30, 30)),
    ClassSpec("stroma", (30, 200, 30)),
)


def mask_of(seed, void=False, size=32):
    """A mask with areas, holes, and pixels that touch at corners."""
    mask = np.random.default_rng(seed).integers(0, 3, (size // 2, size // 2), dtype=np.uint8)
    mask = mask.repeat(2, 0).repeat(2, 1)
    mask[:12, :9] = VOID if void else 0
    return mask


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Real tiles with a margin, and synthetic ones."""
    folder = tmp_path_factory.mktemp("sets")
    real = [
        make_tile(split, f"{split}-p", n, size=40, mask=mask_of(n, n == 0, 40), tags={"lab": "N"})
        for split in ("train", "val", "test")
        for n in range(2)
    ]
    real.append(make_tile("style", "style-p", size=40))
    made = [
        make_tile(
            "synthetic",
            "train-p",
            7 + n,
            mask=mask_of(9 + n),
            provenance={"checkpoint": "abc", "style_patient": "style-p", "layout_record": str(n)},
        )
        for n in range(2)
    ]
    source = {"from": "made up"}
    written(folder / "real", real, classes=CLASSES, margin=4, source=source)
    written(folder / "made", made, classes=CLASSES, source={"checkpoint": "def"})
    return folder


def run(sets, out, *more, names=("real", "made")):
    tiles = ",".join(str(sets / name) for name in names)
    count = export(parse_args([f"--tiles={tiles}", f"--out={out}", *more]))
    with (out / "tiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count
    return rows


def stored(sets, row):
    """Image and mask of a line of tiles.csv, from its tile set."""
    tiles = TileSet.open(sets / ("made" if row["split"] == "synthetic" else "real"))
    tile = tiles.read(row["split"], int(row["record"]))
    return core(tile.image, tiles.margin), core(tile.mask, tiles.margin)


def pixels(path):
    """As any reader sees them."""
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return read if read.ndim == 2 else read[..., ::-1]


@pytest.fixture(scope="module")
def folder(sets):
    return sets / "folder", run(sets, sets / "folder")


@pytest.fixture(scope="module")
def nnunet(sets):
    return sets / "Dataset501_made", run(sets, sets / "Dataset501_made", "--format=nnunet")


def test_pixels_are_those_of_the_records(sets, folder):
    out, rows = folder
    assert len(rows) == 9
    for row in rows:
        image, mask = stored(sets, row)
        assert np.array_equal(pixels(out / row["image"]), image)
        assert np.array_equal(pixels(out / row["mask"]), mask)
        counted = [int(row[f"pixels {spec.name}"]) for spec in CLASSES]
        assert counted == [np.count_nonzero(mask == n) for n in range(3)]


def test_the_table_has_tags_and_provenance(folder):
    made = [row for row in folder[1] if row["split"] == "synthetic"]
    assert [row["made layout_record"] for row in made] == ["0", "1"]
    assert {row["made checkpoint"] for row in made} == {"abc"}
    assert {row["style_patient"] for row in made} == {"style-p"}
    assert {row["tag lab"] for row in folder[1] if row["split"] == "train"} == {"N"}


def decoded(segmentation):
    """The mask of COCO's run lengths: column by column, the first of pixels outside."""
    counts = segmentation["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(segmentation["size"], order="F").astype(bool)


def test_coco_holds_every_pixel_of_every_class_once(folder):
    out, rows = folder
    assert {path.stem for path in (out / "coco").iterdir()} >= {"train", "synthetic"}
    for path in (out / "coco").iterdir():
        coco = json.loads(path.read_text())
        names = {each["id"]: each["name"] for each in coco["categories"]}
        assert names == {1: "tumour", 2: "stroma"}
        ids = [each["id"] for each in coco["annotations"]]
        assert ids == list(range(1, len(ids) + 1)) and (ids or path.stem == "style")
        labeled = [row for row in rows if row["split"] == path.stem != "style"]
        assert len(coco["images"]) == len(labeled)
        for image in coco["images"]:
            mask = pixels(out / "masks" / path.stem / image["file_name"])
            assert (image["height"], image["width"]) == mask.shape
            seen = np.zeros_like(mask)
            for each in coco["annotations"]:
                if each["image_id"] == image["id"]:
                    area = decoded(each["segmentation"])
                    x, y, width, height = each["bbox"]
                    assert each["area"] == area.sum() > 0 and not seen[area].any()
                    assert area[y : y + height, x : x + width].sum() == area.sum()
                    seen[area] = each["category_id"]
            assert np.array_equal(seen, np.where(mask == VOID, 0, mask))


def test_outlines_enclose_the_areas(folder):
    out, rows = folder
    row = next(row for row in rows if row["split"] == "val")
    place = Path(row["mask"].replace("masks", "outlines")).with_suffix(".geojson")
    found = json.loads((out / place).read_text())["features"]
    mask = pixels(out / row["mask"])
    for label, spec in enumerate(CLASSES[1:], start=1):
        own = [each for each in found if each["properties"]["classification"]["name"] == spec.name]
        union = shapely.union_all([shape(each["geometry"]) for each in own])
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
        assert np.array_equal(shapely.contains_xy(union, x, y), mask == label)
    assert len(found) == len(list(areas_of(mask, [1, 2])))


def test_nnunet_finds_what_it_documents(sets, nnunet):
    """What verify_dataset_integrity of nnU-Net 2 checks, and its natural-image reader."""
    out, rows = nnunet
    described = json.loads((out / "dataset.json").read_text())
    ending, labels = described["file_ending"], described["labels"]
    assert list(labels.values()) == list(range(len(labels))) and labels["background"] == 0
    assert list(labels) == ["background", "tumour", "stroma", "ignore"]
    images = sorted(path.name for path in (out / "imagesTr").iterdir())
    cases = [name.removesuffix(f"_0000{ending}") for name in images]
    assert len(cases) == described["numTraining"] == 6
    assert sorted(path.name for path in (out / "labelsTr").iterdir()) == [
        f"{case}{ending}" for case in cases
    ]
    for case in cases:
        image, mask = (
            pixels(out / f"imagesTr/{case}_0000.png"),
            pixels(out / f"labelsTr/{case}.png"),
        )
        assert image.shape == (*mask.shape, len(described["channel_names"]))
        assert set(np.unique(mask)) <= set(labels.values())
    (fold,) = json.loads((out / "splits_final.json").read_text())
    assert sorted(fold["train"] + fold["val"]) == cases
    assert all(name.startswith("val") for name in fold["val"])
    assert len(list((out / "imagesTs").iterdir())) == len(list((out / "labelsTs").iterdir())) == 2
    for row in rows:
        image, mask = stored(sets, row)
        assert np.array_equal(pixels(out / row["image"]), image)
        assert np.array_equal(pixels(out / row["mask"]), np.where(mask == VOID, 3, mask))


def test_without_background_no_class_is_0_in_nnunet(tmp_path):
    tile = make_tile("train", "a", mask=mask_of(3))
    classes = tuple(ClassSpec(name, (9, 9, 9)) for name in ("fat", "skin", "bone"))
    written(tmp_path / "set", [tile], classes=classes)
    out = tmp_path / "Dataset001_a"
    (row,) = run(tmp_path, out, "--format=nnunet", "--background=", names=["set"])
    labels = json.loads((out / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "fat": 1, "skin": 2, "bone": 3}
    assert np.array_equal(pixels(out / row["mask"]), tile.mask + 1)


def test_the_card_counts_and_names_the_origin(folder, nnunet):
    card = (folder[0] / "README.md").read_text()
    for text in ("made up", "checkpoint: def", "style-p", "fingerprint", "Synthetic images", "255"):
        assert text in card
    assert "1 tiles of the sets are left out" in (nnunet[0] / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("synthetic"))
    assert line.split()[1:4] == ["1", "1", "2"]


@pytest.mark.parametrize(
    "options, text",
    [
        (["--tiles="], "names no tile set"),
        (["--tiles=/nowhere"], "is no tile set"),
        (["--format=nnunet"], "Dataset501_glands"),
        (["--background=nerve"], "none of the classes, which are background, tumour, stroma"),
        (["--format=nnunet", "--background=tumour", "--out={out}/Dataset001_a"], "of its own"),
        (["--format=voc"], "invalid choice"),
        (["--tiles={sets}/real,{sets}/real"], "Both"),
        (["--overwrite", "--out={sets}/real"], "is no export"),
        (["--out={sets}/real"], "exists already"),
    ],
)
def test_what_is_wrong_is_said(sets, tmp_path, options, text):
    given = [f"--tiles={sets / 'made'}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=text):
        main([*given, *(each.format(sets=sets, out=tmp_path) for each in options)])
    assert list(tmp_path.iterdir()) == []


def test_classes_of_several_sets_become_those_of_the_export(sets, tmp_path):
    tile = make_tile("train", "q", mask=mask_of(5))
    classes = tuple(ClassSpec(name, (n, n, n)) for n, name in enumerate(("rest", "tumour", "fat")))
    other = str(written(tmp_path / "other", [tile], classes=classes).path)
    with pytest.raises(UserError, match="Say which are one"):
        run(sets, tmp_path / "out", names=("made", other))
    with pytest.raises(UserError, match="does not say what fat"):
        run(
            sets, tmp_path / "out", "--classes=background=rest,tumour,stroma", names=(other, "made")
        )
    given = "--classes=tumour,background=rest|fat|stroma"
    rows = run(sets, tmp_path / "out", given, names=("made", other))
    row = rows[-1]
    wanted = np.array([1, 0, 1], np.uint8)[tile.mask]
    assert np.array_equal(pixels(tmp_path / "out" / row["mask"]), wanted)
    assert int(row["pixels background"]) == np.count_nonzero(wanted)


def test_a_damaged_set_is_refused(tmp_path):
    tiles = written(tmp_path / "set", [make_tile("train", "a")])
    (shard,) = tiles.path.glob("*.array_record*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match="damaged"):
        main([f"--tiles={tiles.path}", f"--out={tmp_path / 'out'}"])


def test_a_killed_export_is_none(sets, tmp_path):
    """Killed while it writes: nothing stands under the name, and the next one sweeps it up."""
    out = tmp_path / "out"
    script = (
        "import sys, os, signal\n"
        "from data_prep.exporting.plain import Plain\n"
        "from data_prep.export import main\n"
        "Plain.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])\n"
    )
    given = [f"--tiles={sets / 'made'}", f"--out={out}"]
    ended = subprocess.run([sys.executable, "-c", script, *given], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1
    assert main(given) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
