"""Fetches Flowers-102 where the user asks for it: the archives of its authors, or a copy of
TensorFlow Datasets."""

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.command import Progress
from data_prep.csv_file import write_csv
from stedm_jax.common.errors import UserError
from stedm_jax.common.fetch import fetch

BASE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
ARCHIVES = {
    "imagelabels.mat": "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
    "setid.mat": "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
    "102flowers.tgz": "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
    "102segmentations.tgz": "",
}
"""Files and their SHA-256, as TensorFlow Datasets records them; there is none on record for the
segmentations."""
NAME = re.compile(r"image_([0-9]{5})\.jpg")
UNPACKED = {"102flowers.tgz": "jpg", "102segmentations.tgz": "segmim"}
LABELS = "labels.csv"
"""What `from_tfds` writes in place of the .mat files: number, class, set."""


def download(folder: Path, base: str = BASE) -> None:
    """Fetches what is not there yet, compares it with the checksums and unpacks it.

    Args:
      folder: where to put it; made if it is not there.
      base: address of the files.

    Raises:
      UserError: as `fetch` and `unpack`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in ARCHIVES.items():
        if (folder / UNPACKED.get(name, name)).exists():
            continue
        path = folder / name
        if not path.exists():
            fetch(base + name, path, digest, _megabytes(name))
        if name in UNPACKED:
            unpack(path, folder, UNPACKED[name])


def _megabytes(name: str) -> Callable[[int, int], None]:
    """Shows how much of a file is here, given bytes so far and in all."""
    line = Progress(name, 1, "MB")

    def show(done: int, total: int) -> None:
        line.total = max(total >> 20, 1)
        line.update(min(done >> 20, line.total))

    return show


def unpack(archive: Path, folder: Path, inside: str) -> None:
    """Unpacks the folder `inside` of an archive into a folder, where it appears when it is
    complete.

    Raises:
      UserError: the archive is damaged, or would write elsewhere.
    """
    work = folder / f".{inside}.partial"
    try:
        with tarfile.open(archive) as file:
            file.extractall(work, filter="data")
        (work / inside).rename(folder / inside)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error}); delete it and run again."
        ) from error
    finally:  # an archive may hold more than the one folder
        shutil.rmtree(work, ignore_errors=True)


def from_tfds(copy: Path, folder: Path) -> None:
    """Writes the images of a prepared TensorFlow Datasets copy as jpg/image_NNNNN.jpg, and
    labels.csv.

    Args:
      copy: the folder with dataset_info.json, or one above it.
      folder: the folder that data_prep.flowers takes as --source.

    Raises:
      UserError: there is no such copy, or it is not in the format array_record.
    """
    import tensorflow_datasets as tfds

    found = sorted(copy.rglob("dataset_info.json")) if copy.is_dir() else []
    if not found:
        raise UserError(
            f"--tfds={copy} holds no data set of TensorFlow Datasets; make one with "
            "tfds.builder('oxford_flowers102', file_format='array_record').download_and_prepare(), "
            "or leave the option out."
        )
    builder: Any = tfds.builder_from_directory(found[-1].parent)
    raw: Any = tfds.decode.SkipDecoding  # a decorator hides the class from type checkers
    rows = []
    (folder / "jpg").mkdir(parents=True, exist_ok=True)
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        try:
            source = builder.as_data_source(split=part, decoders={"image": raw()})
        except (ValueError, NotImplementedError, KeyError) as error:
            raise UserError(
                f"--tfds={copy}: the set {part} cannot be read ({error}); prepare it as "
                "array_record."
            ) from error
        for example in source:
            text = example["file_name"]
            file = text.decode() if isinstance(text, bytes) else str(text)
            match = NAME.fullmatch(file)
            if not match:  # it becomes a path
                raise UserError(
                    f"--tfds={copy} names an image {file!r}, not like image_00001.jpg; prepare it "
                    "again."
                )
            (folder / "jpg" / file).write_bytes(example["image"])
            rows.append((int(match[1]), int(example["label"]) + 1, name))
    write_csv(folder / LABELS, [["number", "class", "set"], *sorted(rows)])
