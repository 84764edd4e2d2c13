import csv
import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.flowers import get_config
from data_prep import flowers, flowers_fetch
from stedm_jax.common.errors import UserError
from stedm_jax.data.classes import class_map
from stedm_jax.data.records import TileSet
from tests.data_prep.datasets.made import FLOWER_CLASSES, flower_mask, make_flowers

SMALL = ["--tile=60", "--workers=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_flowers(tmp_path_factory.mktemp("flowers") / "F")


def test_the_published_classes():
    classes = sorted(flowers.parse_annotated(flowers.ANNOTATED))
    assert len(flowers.ANNOTATED.split(",")) == len(classes) == 48
    assert classes[0] == "005" and classes[-1] == "102"


def test_by_official_sets(source, tmp_path):
    assert (
        flowers.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, "--labelled=2"])
        == 0
    )
    tiles = TileSet.open(tmp_path / "out")
    found = {split: tiles.patients(split) for split in tiles.splits}
    assert found == {
        "train": ["005@train", "006@train"],
        "val": ["001@val", "006@val"],
        "test": ["001@test", "002@test", "005@test"],
        "style": ["001@style", "005@style"],
    }
    slides = Counter(row.patient for row in tiles.index("train") if row.x == 0)
    assert slides == {"005@train": 2, "006@train": 1}  # the third of class 5 lends its style
    assert tiles.read("train", 0).tags == {"class": "005", "official_split": "train"}
    config = get_config()
    assert class_map(tiles.classes, config.data.groups, config.data.foreground).foreground == (1,)


def test_masks_from_blue(source, tmp_path):
    mask = flowers.decode_blue(source / "segmim" / "segmim_00001.jpg")
    np.testing.assert_array_equal(mask, flower_mask())
    assert flowers.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL]) == 0
    tiles = TileSet.open(tmp_path / "out")
    pixels = np.sum([row.pixels for row in tiles.index("val")], axis=0)
    assert pixels.tolist() == [
        2 * (60 * 80 - 24 * 32),
        2 * 24 * 32,
    ]  # no pixel twice, although tiles overlap


def test_images_are_scaled_to_the_tile(source, tmp_path):
    assert (
        flowers.main(
            [f"--source={source}", f"--out={tmp_path / 'out'}", "--tile=30", "--workers=1"]
        )
        == 0
    )
    tiles = TileSet.open(tmp_path / "out")
    assert len(tiles.index("val")) == 4 and tiles.read("val", 0).image.shape == (30, 30, 3)


def test_by_class(source, tmp_path):
    flags = ["--split=class", "--annotated=5", "--labelled=3"]
    assert flowers.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, *flags]) == 0
    tiles = TileSet.open(tmp_path / "out")
    assert (
        tiles.patients("train") == ["005"] and len({row.slide for row in tiles.index("train")}) == 3
    )
    assert sorted(sum((tiles.patients(split) for split in ("val", "test", "style")), [])) == [
        "001",
        "002",
        "006",
    ]


def test_a_folder_with_an_index(source, tmp_path):
    folder = tmp_path / "F17"
    (folder / "masks").mkdir(parents=True)
    lines = ["image,mask,class_id,class_name,mask_ok"]
    for number in range(1, 13):
        Image.fromarray(flower_mask().astype(np.uint8)).save(folder / "masks" / f"{number}.png")
        (folder / f"{number}.jpg").write_bytes(
            (source / "jpg" / f"image_{number:05d}.jpg").read_bytes()
        )
        lines.append(f"{number}.jpg,masks/{number}.png,{number % 6},kind,{int(number > 6)}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    assert flowers.main([f"--source={folder}", f"--out={tmp_path / 'out'}", *SMALL]) == 0
    tiles = TileSet.open(tmp_path / "out")
    assert {split: len(tiles.patients(split)) for split in tiles.splits} == {
        "train": 3,
        "val": 1,
        "test": 1,
        "style": 1,
    } or (len(tiles.patients("style")) == 2)
    for split in tiles.splits:  # masks that are not to be trusted serve for style only
        assert len({row.slide for row in tiles.index(split)}) == len(tiles.patients(split)) * (
            2 if split == "style" else 1
        )
    with pytest.raises(UserError, match="knows no official sets"):
        flowers.main([f"--source={folder}", f"--out={tmp_path / 'no'}", "--split=official"])


def test_wrong_folders(source, tmp_path):
    with pytest.raises(
        UserError,
        match=r"(?s)no jpg/, no segmim/, no imagelabels\.mat, no setid\.mat.*102segmentations",
    ):
        flowers.main([f"--source={tmp_path}", f"--out={tmp_path / 'out'}"])
    folder = make_flowers(tmp_path / "F", segmentations=False)
    with pytest.raises(UserError, match="no segmim/"):
        flowers.main([f"--source={folder}", f"--out={tmp_path / 'out'}"])
    folder = make_flowers(tmp_path / "G")
    (folder / "setid.mat").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"setid\.mat is not the published file"):
        flowers.main([f"--source={folder}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="--annotated=five"):
        flowers.main([f"--source={source}", f"--out={tmp_path / 'out'}", "--annotated=five"])
    with pytest.raises(UserError, match="--dry_run writes nothing"):
        flowers.main(
            [f"--source={tmp_path / 'H'}", f"--out={tmp_path / 'out'}", "--download", "--dry_run"]
        )
    assert not any((tmp_path / name).exists() for name in ("out", "out-report", "H"))


def test_download(source, tmp_path, monkeypatch):
    """From a folder in the place of the authors' server."""
    server = tmp_path / "server"
    server.mkdir()
    for name, inside in flowers_fetch.UNPACKED.items():
        with tarfile.open(server / name, "w:gz") as archive:
            archive.add(source / inside, inside)
    for name in ("imagelabels.mat", "setid.mat"):
        (server / name).write_bytes((source / name).read_bytes())
    base, target = f"{server.as_uri()}/", tmp_path / "F"
    with pytest.raises(UserError, match=r"imagelabels\.mat gave another file than is known"):
        flowers_fetch.download(target, base)
    monkeypatch.setattr(flowers_fetch, "ARCHIVES", dict.fromkeys(flowers_fetch.ARCHIVES, ""))
    flowers_fetch.download(target, base)
    flowers.check_source(target)
    assert flowers.read_numbers(target) == flowers.read_numbers(source) and not list(
        target.glob("*.partial")
    )
    (server / "setid.mat").unlink()
    (target / "setid.mat").unlink()
    with pytest.raises(UserError, match=r"setid\.mat could not be fetched"):
        flowers_fetch.download(target, base)


def test_archives_cannot_write_elsewhere(tmp_path):
    with tarfile.open(tmp_path / "102flowers.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("../evil.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        flowers_fetch.unpack(tmp_path / "102flowers.tgz", tmp_path / "in", "jpg")
    assert not (tmp_path / "evil.txt").exists()


def test_an_archive_may_hold_more_than_its_folder(tmp_path):
    with tarfile.open(tmp_path / "102flowers.tgz", "w:gz") as archive:
        for name in ("jpg/image_00001.jpg", "README"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    flowers_fetch.unpack(tmp_path / "102flowers.tgz", tmp_path / "in", "jpg")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["jpg"]


def test_an_image_without_its_mask_stops_no_other(tmp_path):
    folder = make_flowers(tmp_path / "F")
    (folder / "segmim" / "segmim_00001.jpg").unlink()
    assert flowers.main([f"--source={folder}", f"--out={tmp_path / 'out'}", *SMALL]) == 1
    assert "segmim_00001.jpg is not in" in (tmp_path / "out-report" / "report.jsonl").read_text()
    assert "005@train" in TileSet.open(tmp_path / "out").patients("train")


def write_tfds(folder: Path, source: Path, name: str = "image_{:05d}.jpg") -> None:
    """A data set as TensorFlow Datasets prepares oxford_flowers102 in the format array_record."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from etils import epath
    from tensorflow_datasets.proto import tf_example_generated_pb2

    example_pb2: Any = tf_example_generated_pb2
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=102),
            "file_name": tfds.features.Text(),
        }
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name="oxford_flowers102",
        filetype_suffix="array_record",
    )
    infos = []
    for split, numbers in (("train", range(1, 8)), ("validation", (8, 9)), ("test", (10, 11, 12))):
        writer = ArrayRecordWriter(
            str(folder / f"oxford_flowers102-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for number in numbers:
            message = example_pb2.Example()
            fields = message.features.feature
            photograph = source / "jpg" / f"image_{number:05d}.jpg"
            fields["image"].bytes_list.value.append(photograph.read_bytes())
            fields["label"].int64_list.value.append(FLOWER_CLASSES[number - 1] - 1)
            fields["file_name"].bytes_list.value.append(name.format(number).encode())
            writer.write(message.SerializeToString())
        writer.close()
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(numbers)],
                num_bytes=1,
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, version="2.1.1", check_data=False
    )


def test_a_copy_of_tensorflow_datasets(source, tmp_path):
    write_tfds(tmp_path / "tfds" / "oxford_flowers102" / "2.1.1", source)
    folder = tmp_path / "F"
    flowers_fetch.from_tfds(tmp_path / "tfds", folder)
    for number in (1, 8, 12):
        name = f"image_{number:05d}.jpg"
        assert (folder / "jpg" / name).read_bytes() == (source / "jpg" / name).read_bytes()
    assert flowers.read_numbers(folder) == flowers.read_numbers(source)
    with (folder / "labels.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    with pytest.raises(UserError, match="no segmim/"):
        flowers.check_source(folder)
    with pytest.raises(UserError, match="holds no data set of TensorFlow Datasets"):
        flowers_fetch.from_tfds(tmp_path / "nothing", folder)
    write_tfds(tmp_path / "evil" / "oxford_flowers102" / "2.1.1", source, "../../image_{:05d}.jpg")
    with pytest.raises(UserError, match=r"names an image '\.\./\.\./image_00001\.jpg'"):
        flowers_fetch.from_tfds(tmp_path / "evil", tmp_path / "a" / "b" / "F")
    assert not list((tmp_path / "a").rglob("*.jpg"))


@pytest.mark.data
def test_flowers_17(real_data, tmp_path):
    flags = ["--limit=12", "--tile=128", "--workers=1"]
    assert (
        flowers.main([f"--source={real_data / 'flowers17'}", f"--out={tmp_path / 'out'}", *flags])
        == 0
    )
    assert (
        sum(
            len(rows)
            for rows in map(TileSet.open(tmp_path / "out").index, ("train", "val", "test", "style"))
        )
        >= 12
    )
