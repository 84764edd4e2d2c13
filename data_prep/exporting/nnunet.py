"""The form "nnunet": the raw folder of nnU-Net version 2.

By its documentation (dataset_format.md, ignore_label.md, and the natural-image reader): RGB is one
PNG of three channels, CASE_0000.png, which dataset.json lists as three; labels are consecutive from
0, the background; pixels without a label get the highest number, named "ignore". Its own five-fold
split is by case, so that a patient would be on both sides: splits_final.json is ours.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.exporting.exported import Item, Whole
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_json
from stedm_jax.common.labels import VOID
from stedm_jax.data.codecs import encode_mask, encode_png
from stedm_jax.data.schema import ClassSpec

ABOUT = """\
| place | what |
|---|---|
| `imagesTr`, `labelsTr` | images and masks of train, val and synthetic |
| `imagesTs`, `labelsTs` | those of test, which nnU-Net does not train on |
| `dataset.json` | channels and labels |
| `splits_final.json` | one fold, if there are tiles of val: train and synthetic against val. Copy it to this data set's folder in `nnUNet_preprocessed` before training and train fold 0; nnU-Net's own split is by image, not by patient |

Tiles without a labeled pixel are left out.
"""  # noqa: E501
IGNORE = "ignore"
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


class NnUNet:
    """See Form.

    Args:
      folder: of the export. name: of its final folder.
      classes: of the masks. labels: ids of those that are not the background.
      license: of the images, as text.

    Raises:
      UserError: the name, or that of a class, is none that nnU-Net takes.
    """

    about = ABOUT

    def __init__(
        self,
        folder: Path,
        name: str,
        classes: Sequence[ClassSpec],
        labels: Sequence[int],
        license: str,
    ):
        if not re.fullmatch(r"Dataset\d{3}_\w+", name):
            raise UserError(
                f"nnU-Net does not find a folder named '{name}'. Let --out end in Dataset, three "
                "digits and a name, as nnUNet_raw/Dataset501_glands."
            )
        if wrong := {IGNORE, "background"} & {classes[label].name for label in labels}:
            raise UserError(
                f"A class is named '{wrong.pop()}', which has a meaning of its own in nnU-Net. "
                "Name it as --background, or pack the tiles with another name."
            )
        self.license = license
        self.names = ["background", *(classes[label].name for label in labels)]
        self.table = np.zeros(256, np.uint8)
        self.table[list(labels)] = np.arange(1, len(labels) + 1)
        self.table[VOID] = len(self.names)
        for each in FOLDERS:
            (folder / each).mkdir()

    def place(self, item: Item) -> tuple[str, str] | None:
        """See Form."""
        if not item.row.labelled:
            return None
        part = "Ts" if item.row.split == "test" else "Tr"
        return f"images{part}/{item.name}_0000.png", f"labels{part}/{item.name}.png"

    def write(self, folder: Path, item: Item, whole: Whole) -> None:
        """See Form."""
        image, mask = self.place(item) or ("", "")
        (folder / image).write_bytes(encode_png(whole.image))
        (folder / mask).write_bytes(encode_mask(self.table[whole.mask]))

    def add(self, item: Item, found: None) -> None:
        """See Form."""

    def finish(self, folder: Path, items: list[Item]) -> None:
        """See Form."""
        labels = {name: number for number, name in enumerate(self.names)}
        if any(item.row.labelled < item.pixels for item in items):
            labels[IGNORE] = len(self.names)
        learned = {split: [i.name for i in items if i.row.split == split] for split in _LEARNED}
        described = {
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": labels,
            "numTraining": sum(map(len, learned.values())),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
            "license": self.license,
        }
        write_json(folder / "dataset.json", described)
        if learned["val"]:
            fold = {"train": learned["train"] + learned["synthetic"], "val": learned["val"]}
            write_json(folder / "splits_final.json", [fold])


_LEARNED = ("train", "val", "synthetic")
