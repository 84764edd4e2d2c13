"""The two files that make a tile set a TensorFlow Datasets data set on disk; tensorflow is not
needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from stedm_jax.data.record_file import Shard
from stedm_jax.data.schema import FRACTIONS, NUMBERS, SCHEMA_VERSION, TABLES, TEXTS


def write_tfds_metadata(
    folder: Path,
    name: str,
    tile: int,
    codec: str,
    shards: Mapping[str, Sequence[Shard]],
) -> None:
    """Writes features.json and dataset_info.json for the shards in a folder.

    Args:
      folder: where the shards lie under their final names.
      name: name of the data set.
      tile: side of the images in pixels, with their margins.
      codec: codec of the images, "png" or "jpegQ".
      shards: split -> its shards in order.
    """
    encoding = "png" if codec == "png" else "jpeg"
    features = {
        "image": tfds.features.Image(shape=(tile, tile, 3), encoding_format=encoding),
        "mask": tfds.features.Image(shape=(tile, tile, 1), encoding_format="png"),
        **dict.fromkeys((*TEXTS, *TABLES), tfds.features.Text()),
        **dict.fromkeys(NUMBERS, np.int64),
        **dict.fromkeys(FRACTIONS, np.float32),
    }
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder), dataset_name=name, filetype_suffix="array_record"
    )
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.records for shard in members],
            num_bytes=sum(shard.payload for shard in members),
            filename_template=template.replace(split=split),
        )
        for split, members in shards.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_infos=infos,
        version=f"{SCHEMA_VERSION}.0.0",
        check_data=False,
    )
