"""What is exported: tile sets of the same classes, and the names that their tiles get."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_prep.class_plan import read_classes
from data_prep.inspection.counts import all_rows
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC, ClassSpec, check_disjoint, core, decode_tile


@dataclass(frozen=True)
class Item:
    """A tile to export, from record `row.record` of `tiles`."""

    tiles: TileSet
    row: IndexRow

    @property
    def name(self) -> str:
        """Of its files: unique in the export."""
        return f"{self.row.split}_{self.row.record:06d}"

    @property
    def pixels(self) -> int:
        """In it, margin apart."""
        return self.tiles.tile**2


@dataclass(frozen=True)
class Whole:
    """A tile that was read: image and mask without margin, tags, provenance."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]
    tags: dict[str, Any]
    provenance: dict[str, Any]


class Exported:
    """Tile sets that are exported together, such as real tiles and synthetic ones.

    Args:
      places: their folders or URLs.
      classes: those of the export, as class_plan.read_classes reads them; "": those of the sets.

    Raises:
      UserError: no tile set, a damaged one, or sets that do not go together.
    """

    def __init__(self, places: Sequence[str], classes: str = ""):
        self.sets = [TileSet.open(place) for place in places]
        for tiles in self.sets:
            tiles.verify()
        _check_together(self.sets)
        self.classes, self._ids = _merged(self.sets, classes)
        self.items = [
            Item(tiles, replace(row, pixels=self._counts(row.pixels, ids)))
            for tiles, ids in zip(self.sets, self._ids, strict=True)
            for row in all_rows(tiles)
        ]
        self._sources = {
            split: tiles.source(split) for tiles in self.sets for split in tiles.splits
        }
        self._tables = {}
        for tiles, ids in zip(self.sets, self._ids, strict=True):
            table = np.full(256, VOID, np.uint8)
            table[: len(ids)] = ids
            self._tables |= dict.fromkeys(tiles.splits, table)

    def _counts(self, pixels: Sequence[int], ids: Sequence[int]) -> tuple[int, ...]:
        """Pixels of each class of the export, of those of the classes of a set."""
        counts = [0] * len(self.classes)
        for label, count in zip(ids, pixels, strict=True):
            counts[label] += count
        return tuple(counts)

    def read(self, item: Item) -> Whole:
        """Reads a tile; from any thread."""
        split = item.row.split
        tile = decode_tile(self._sources[split][item.row.record])
        image, mask = (
            np.ascontiguousarray(core(each, item.tiles.margin)) for each in (tile.image, tile.mask)
        )
        return Whole(image, self._tables[split][mask], dict(tile.tags), dict(tile.provenance))


def _check_together(sets: Sequence[TileSet]) -> None:
    """Refuses sets of several resolutions, of the same split, or with a patient in two splits."""
    first, seen, patients = sets[0], dict[str, TileSet](), dict[str, list[str]]()
    for tiles in sets:
        if abs(tiles.mpp / first.mpp - 1) > 0.02:
            raise UserError(
                f"{tiles.path} has {tiles.mpp:g} um per pixel, and {first.path} {first.mpp:g}. "
                "Export sets of one resolution together, others alone."
            )
        for split in tiles.splits:
            if split in seen:
                raise UserError(
                    f"Both {seen[split].path} and {tiles.path} have the split '{split}', whose "
                    "files would get the same names. Export one of the two."
                )
            seen[split] = tiles
            if split != SYNTHETIC:
                patients[split] = tiles.patients(split)
    check_disjoint(patients, "the tile sets to export")


def _merged(sets: Sequence[TileSet], text: str) -> tuple[tuple[ClassSpec, ...], list[list[int]]]:
    """The classes of the export, and for each set the ids there of its own classes."""
    first = sets[0]
    if not text:
        for tiles in sets:
            names, wanted = (", ".join(c.name for c in each.classes) for each in (tiles, first))
            if names != wanted:
                raise UserError(
                    f"{tiles.path} has the classes {names}, and {first.path} has {wanted}. Say "
                    'which are one, as --classes="background=stroma,gland", or export them alone.'
                )
        return first.classes, [list(range(len(first.classes)))] * len(sets)
    rules = read_classes(text)
    ids = {name: number for number, name in enumerate(rules)}
    ids |= {name: ids[own] for own, rule in rules.items() for name in rule.names}
    known = {spec.name: spec.color for tiles in sets for spec in tiles.classes}
    if missing := [name for name in known if name not in ids]:
        raise UserError(
            f"--classes={text} does not say what {', '.join(missing)} of the sets is; add it to a "
            "class, as stroma=stroma|NAME."
        )
    specs = []
    for own, rule in rules.items():
        colors = [known[name] for name in (own, *rule.names) if name in known]
        if not colors:
            raise UserError(
                f"--classes={text}: no set has the class {own}; they have {', '.join(known)}."
            )
        specs.append(ClassSpec(own, rule.color or colors[0]))
    return tuple(specs), [[ids[spec.name] for spec in tiles.classes] for tiles in sets]


def labels_without(classes: Sequence[ClassSpec], background: str) -> list[int]:
    """Ids of the classes but the background ("": there is none).

    Raises:
      UserError: there is no such class, or no other one.
    """
    names = [spec.name for spec in classes]
    if background and background not in names:
        raise UserError(
            f"--background={background} is none of the classes, which are {', '.join(names)}; "
            "--background= says that there is none."
        )
    labels = [label for label, name in enumerate(names) if name != background]
    if not labels:
        raise UserError(f"{background} is the only class; there is nothing to export but images.")
    return labels
