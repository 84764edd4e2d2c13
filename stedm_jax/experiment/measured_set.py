"""What a set of synthetic tiles is measured by: its images with their styles, real tiles of its
style patients, and features of both beside those of held-out patients.

Features are kept as files, named by a checksum of tiles, records and encoder, and read from there
another time.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_file, sha256_of_json
from stedm_jax.common.processors import in_threads
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.sampling import GLASS
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.evaluation.synthesis_quality.compared import MOST, Distance, Features, Tiles
from stedm_jax.evaluation.synthesis_quality.metric import Example, RealTile
from stedm_jax.experiment.encoders import Encoder, encode

REAL, LEAST = 4096, 32
"""Real tiles that a set is measured by, and at least of each patient, where there are as many."""
HELD_OUT = ("val", "test")

Read = Callable[[IndexRow], UInt8[np.ndarray, "h w 3"]]
Values = Callable[[TileSet, Sequence[IndexRow], Read], np.ndarray]
"""Features of some tiles of a set."""


def examples(made: TileSet, real: TileSet, read: Read) -> Iterator[Example]:
    """The images of a set with their style tiles, which are records of `real`."""

    def read_style(key: Hashable) -> np.ndarray:
        split, record = cast(tuple[str, int], key)
        return read(real.index(split)[record])

    for number in range(len(made.index(SYNTHETIC))):
        tile = made.read(SYNTHETIC, number)
        split = tile.provenance["style_split"]
        styles = [(split, int(record)) for record in tile.provenance["style_records"].split()]
        patient = tile.provenance["style_patient"]
        yield Example(tile.image, tile.mask, styles, read_style, patient)


def style_tiles(
    made: Iterable[IndexRow], rows: Sequence[IndexRow], read: Read, seed: int
) -> Iterator[RealTile]:
    """Real tiles of the patients who lent their styles to a set, at most REAL in all and as many of
    each patient.

    Args:
      made: of the set.
      rows: of the split of the styles.
    """
    wanted = {row.style_patient for row in made}
    rng = np.random.default_rng(seed)
    for patient in sorted(wanted):
        mine = [row for row in rows if row.patient == patient and row.kind != GLASS]
        count = min(len(mine), max(REAL // len(wanted), LEAST))
        for i in rng.choice(len(mine), count, replace=False):
            yield RealTile((mine[i].split, mine[i].record), patient, read(mine[i]))


def features(
    made: TileSet,
    real: TileSet,
    read: Read,
    values: Values,
    encoder: str,
    *,
    held_out: Sequence[str] = HELD_OUT,
    distance: Distance | None = None,
) -> Features:
    """Features of a set, of held-out patients and of those that it has seen.

    Args:
      real: the real tiles, in the splits that the generator learned with.
      read: reads one of them.
      values: where features come from: `Computed` or `FromFile`.
      encoder: its name.
      held_out: splits whose patients the generator has not seen. Patients whose layouts or styles
        the set has do not count as held out.

    Raises:
      UserError: no patient is left on a side.
    """
    rows = made.index(SYNTHETIC)
    used = {row.patient for row in rows} | {row.style_patient for row in rows}
    every = [row for split in real.splits for row in real.index(split) if row.kind != GLASS]
    outside = [row for row in every if row.split in held_out and row.patient not in used]
    chosen = {row.patient for row in outside}
    inside = [row for row in every if row.patient not in chosen]
    for name, side in (("held-out", outside), ("other", inside)):
        if len(side) < 2:
            raise UserError(
                f"{real.path} has no {name} tiles to compare {made.path} with: held out are the "
                f"splits {', '.join(held_out)}, without patients whose layouts or styles the set "
                f"has; the splits there are {', '.join(real.splits)}."
            )

    def tiles(side: list[IndexRow]) -> Tiles:
        rng = np.random.default_rng(0)
        kept = np.sort(rng.choice(len(side), min(len(side), MOST), replace=False))
        some = [side[i] for i in kept]
        names, slides = [row.patient for row in some], [row.slide for row in some]
        return Tiles(values(real, some, read), names, slides, lambda i: read(some[i]))

    def image(row: IndexRow) -> np.ndarray:
        return made.read(SYNTHETIC, row.record).image

    styles, slides = [row.style_patient for row in rows], [row.slide for row in rows]
    own = Tiles(values(made, rows, image), styles, slides, lambda i: image(rows[i]))
    return Features(encoder, own, tiles(outside), tiles(inside), distance)


@dataclass(frozen=True)
class Computed:
    """Features that an encoder computes, or has computed before.

    Attributes:
      folder: where they are kept.
    """

    encoder: Encoder
    folder: Path

    def __call__(self, tiles: TileSet, rows: Sequence[IndexRow], read: Read) -> np.ndarray:
        """As `Values`."""
        places = [(row.split, row.record) for row in rows]
        key = sha256_of_json([tiles.fingerprint, self.encoder.identity, places])
        file = self.folder / f"{key[:24]}.npy"
        if file.is_file():
            return np.load(file)
        found = encode(self.encoder, lambda some: np.stack(in_threads(read, rows[some])), len(rows))
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial, partial.open("wb") as opened:
            np.save(opened, found)
        return found


class FromFile:
    """Features that a user has computed: arrays (records, d) by split, "synthetic" and those of the
    real tiles, in the order of the records.

    Raises:
      UserError: the file cannot be read, or its arrays have no two dimensions or several widths.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as arrays:
                self.arrays = {name: np.asarray(arrays[name], np.float32) for name in arrays}
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read as a file of features ({error}).") from error
        shapes = {array.shape[1:] for array in self.arrays.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise UserError(
                f"{path} holds {', '.join(f'{n} {a.shape}' for n, a in self.arrays.items())}; each "
                "array needs two dimensions, records and features, and all the same features."
            )

    def __call__(self, tiles: TileSet, rows: Sequence[IndexRow], read: Read) -> np.ndarray:
        """As `Values`.

        Raises:
          UserError: an array is missing, has another length than its split, or is not finite.
        """
        for split in sorted({row.split for row in rows}):
            count, array = len(tiles.index(split)), self.arrays.get(split)
            if array is None or len(array) != count:
                there = "has no such array" if array is None else f"has {len(array)}"
                raise UserError(
                    f"{self.path}: '{split}' needs {count} rows, as {tiles.path} has records, and "
                    f"the file {there}; it holds {', '.join(self.arrays)}."
                )
            if not np.isfinite(array).all():
                raise UserError(f"{self.path}: '{split}' holds values that are not finite.")
        return np.stack([self.arrays[row.split][row.record] for row in rows])
