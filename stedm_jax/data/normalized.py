"""Tiles in the stain of others, each patient measured by all of its own tiles together.

A patient's mean color is that of the staining; the mean color of a single tile is also that of its
tissue, and matching it would give stroma the colors of glands.
"""

from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from typing import Any

import numpy as np
from jaxtyping import UInt8

from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import TileReader
from stedm_jax.data.stain import Unfit, find

Sample = UInt8[np.ndarray, "a b 3"]
"""Pixels that a stain is measured by."""


def normalized(
    reader: TileReader, kind: str, samples: Mapping[str, Sample], target: Sample
) -> TileReader:
    """The same reader, whose images have the stain of the target.

    Args:
      reader: of the tiles.
      kind: macenko or reinhard (data/stain.py).
      samples: of each patient that will be read. A patient who shows no stain stays as it is.
      target: whose stain they get.

    Raises:
      Unfit: the target shows no stain.
    """
    own: dict[str, Any] = {}
    for patient, sample in samples.items():
        with suppress(Unfit):
            own[patient] = find(kind, sample)
    return _Normalized(reader, own, find(kind, target))


class _Normalized(TileReader):
    def __init__(self, reader: TileReader, own: Mapping[str, Any], target: Any):
        self.__dict__.update(copy(reader).__dict__)
        self._reader, self._own, self._target = reader, own, target

    def _arrays(self, row: IndexRow, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        arrays = self._reader._arrays(row, names)
        if "image" not in arrays or row.patient not in self._own:
            return arrays
        return arrays | {"image": self._target.instead(arrays["image"], self._own[row.patient])}
