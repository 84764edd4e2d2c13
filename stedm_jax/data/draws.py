"""A tile set as a draw of the grid sees it: the same records, some patients in other splits."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import TileReader
from stedm_jax.data.records import TileSet
from stedm_jax.settings.grid import MOVABLE, Draw

Splits = Mapping[str, Sequence[str]]
"""Split -> names of its patients."""


def splits_of(draw: Draw, packed: Splits) -> dict[str, list[str]]:
    """The splits of a draw, as far as they hold patients.

    Args:
      packed: the splits as packed.
    """
    found: dict[str, list[str]] = {}
    for split, patients in packed.items():
        for patient in patients:
            found.setdefault(draw.split_of(patient, split), []).append(patient)
    return {split: sorted(names) for split, names in found.items() if split}


def splits_of_all(draws: Mapping[str, Draw], packed: Splits) -> list[dict[str, list[str]]]:
    """The splits of every draw; without draws, those packed."""
    return [splits_of(draw, packed) for draw in (draws or {"": Draw()}).values()]


def check_draws(draws: Mapping[str, Draw], packed: Splits, where: str) -> None:
    """Refuses draws that the tiles do not allow.

    Args:
      draws: of config.grid.draws.
      packed: the splits as packed.
      where: the tile set, for the message.

    Raises:
      UserError: lists patients that are not there, test patients, labels wanted of patients that
        were packed without, and splits that are left empty.
    """
    found = [
        f"config.grid.draws.{name}{text}"
        for name, draw in draws.items()
        for text in _wrong(draw, packed)
    ]
    if found:
        raise UserError(f"{'; '.join(found)}. These are the patients of {where}.")


def _wrong(draw: Draw, packed: Splits) -> Iterator[str]:
    home = {patient: split for split, names in packed.items() for patient in names}
    for split in MOVABLE:
        for patient in getattr(draw, split):
            was = home.get(patient, "")
            at = f".{split} names '{patient}'"
            if not was:
                there = [name for name, its in home.items() if its in MOVABLE]
                yield f"{at}, who is not there; there are {', '.join(sorted(there))}"
            elif was not in MOVABLE:
                yield f"{at}, who is a {was} patient and stays one"
            elif was == "style" and split != "style":
                yield f"{at}, who was packed as style, without labels"
    now = splits_of(draw, packed)
    if empty := [split for split in MOVABLE if split in packed and split not in now]:
        yield f" leaves no patient in {' and '.join(empty)}"


def drawn(tiles: TileSet, draw: Draw) -> TileSet:
    """The tile set with the splits of a draw.

    Its rows keep split and record as packed, by which tiles are read; those of patients who are
    labeled but moved to "style" have no labeled pixels.
    """
    rows: dict[str, list[IndexRow]] = {}
    for packed in tiles.splits:
        for row in tiles.index(packed):
            split = draw.split_of(row.patient, packed)
            hidden = split == "style" and row.labelled
            mine = replace(row, pixels=(0,) * len(row.pixels)) if hidden else row
            rows.setdefault(split, []).append(mine)
    rows.pop("", None)
    return TileSet(tiles.path, tiles.manifest, rows)


def without_labels(reader: TileReader, patients: Sequence[str]) -> TileReader:
    """The same reader, with its memory, which gives the tiles of some patients without labels."""
    return _Unlabeled(reader, frozenset(patients)) if patients else reader


class _Unlabeled(TileReader):
    def __init__(self, reader: TileReader, patients: frozenset[str]):
        self.__dict__.update(copy(reader).__dict__)
        self._reader, self._patients = reader, patients

    def _arrays(self, row: IndexRow, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        arrays = self._reader._arrays(row, names)
        if row.patient not in self._patients:
            return arrays
        return arrays | {"mask": np.full_like(arrays["mask"], VOID)}
