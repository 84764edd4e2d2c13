"""Finds files by the names that tables give them, which may lack the ending or compose accents in
another way."""

import difflib
from collections import defaultdict
from pathlib import Path, PurePath

from data_prep.remember import until_a_file_comes
from data_prep.spelling import nfc, stem
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.find_images import KNOWN


def on_disk(folder: Path, name: str, endings: tuple[str, ...] = KNOWN) -> Path:
    """The file of a name: of exactly that name, else of one that is equal in NFC, else of one with
    one of the endings added; `folder / name` where there is none.

    Raises:
      UserError: several files differ from the name in their ending only.
    """
    exact = folder / name
    if exact.exists() and not (exact.is_dir() and exact.with_name(f"{exact.name}.mrxs").exists()):
        return exact
    place = folder
    *above, last = PurePath(name).parts
    for part in above:
        place = place / _names(place).get(nfc(part), [part])[0]
    found = _names(place).get(nfc(last), [])
    if not found or (place / found[0]).is_dir():  # MRXS: a file and a folder
        ending = [
            each for each in _stems(place).get(nfc(last), []) if each.lower().endswith(endings)
        ]
        found = ending or found
    if len(found) > 1:
        raise UserError(
            f"'{name}' may be {' or '.join(sorted(found))} in {place}; write the ending in the "
            "table."
        )
    return place / found[0] if found else exact


def alike(folder: Path, name: str) -> list[str]:
    """Files whose names are close to one that is not there, for a message."""
    place, last = (folder / name).parent, PurePath(name).name
    lower = {each.casefold(): each for each in _names(place)}
    return [lower[each] for each in difflib.get_close_matches(last.casefold(), lower, 3, 0.8)]


Names = dict[str, list[str]]


def _names(folder: Path) -> Names:
    return _listed(folder)[0] if folder.is_dir() else {}


def _stems(folder: Path) -> Names:
    return _listed(folder)[1] if folder.is_dir() else {}


@until_a_file_comes(64)
def _listed(folder: Path) -> tuple[Names, Names]:
    """The files of a folder by their names in NFC, and by these without their endings."""
    names, stems = defaultdict(list), defaultdict(list)
    for path in folder.iterdir():
        name = nfc(path.name)
        names[name].append(path.name)
        stems[stem(name)].append(path.name)
    return dict(names), dict(stems)
