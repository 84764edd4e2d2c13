"""Numbered tiles that become a tile set while they are made: each range of numbers is a part
(tile_parts.py) and mostly a shard of the set.

    PARTS/00000064-00000128/    the part of the tiles 64 to 127

Any process may write any part, in any order. The set is the same as long as the ranges are.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from stedm_jax.common.files import sha256_of_json
from stedm_jax.data.records import SetSpec, check_name
from stedm_jax.data.schema import Tile
from stedm_jax.data.tile_parts import PartWriter, assemble, open_part


class NumberedParts:
    """The parts of a set.

    Args:
      folder: holds them; made if need be.
      spec: what holds for the set; parts of another one are not of this set.
      count: how many tiles the set will have.
    """

    def __init__(self, folder: Path, spec: SetSpec, count: int):
        check_name(spec.name)
        self.folder, self.spec, self.count = folder, spec, count
        classes = [(each.name, *each.color) for each in spec.classes]
        about = {**vars(spec), "classes": classes, "source": dict(spec.source)}
        self._fingerprint = sha256_of_json(about)

    def sweep(self) -> list[range]:
        """The numbers of the finished parts, in order; all else in the folder is deleted."""
        found = []
        self.folder.mkdir(parents=True, exist_ok=True)
        for each in sorted(self.folder.iterdir()):
            part = open_part(each)
            numbers = _numbers(each) if part and part.fingerprint == self._fingerprint else None
            if numbers and numbers.stop <= self.count:
                found.append(numbers)
            elif each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink()
        return found

    def write(self, numbers: range, tiles: Iterable[Tile]) -> None:
        """Writes the part of a range of numbers; it is there when it is complete."""
        name = _name(numbers)
        with PartWriter(self.folder / name, self.spec) as part:
            for tile in tiles:
                part.write(tile)
            part.finish(name, self._fingerprint, {})

    def assemble(self, out: Path) -> None:
        """Makes the set of the parts, by links where the file system can; errors as
        tile_parts.assemble."""
        assemble(out, self.spec, [self.folder / _name(numbers) for numbers in self.sweep()])


def _name(numbers: range) -> str:
    return f"{numbers.start:08d}-{numbers.stop:08d}"


def _numbers(folder: Path) -> range | None:
    """The numbers of a part by its name; None of a folder that a kill kept from its name."""
    found = re.fullmatch(r"(\d{8,})-(\d{8,})", folder.name)
    return range(int(found[1]), int(found[2])) if found else None
