"""Who is in which split: patients drawn at random, and how many there are of each."""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data_prep.cohort_table import Row
from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import SPLITS


def draw(names: Iterable[str], key: str, seed: int) -> list[str]:
    """Names in a random order that depends on the key and the seed only, not on the order they came
    in."""
    ordered = sorted(set(names))
    rng = np.random.default_rng((seed, zlib.crc32(key.encode())))
    return [ordered[i] for i in rng.permutation(len(ordered))]


def release(rows: Sequence[Row], group: str, labelled: int, seed: int) -> list[Row]:
    """Keeps `labelled` training files of each group annotated and gives the others the split
    "style".

    Args:
      rows: the cohort.
      group: the tag by which files are counted ("subtype", "score").
      labelled: files of each group to keep; 0 keeps all. A patient is kept whole.
      seed: for the choice.

    Returns:
      The cohort in its order. A patient with files in several groups counts in each of them, and is
      kept if all have room.

    Raises:
      UserError: a training file has no such tag.
    """
    if not labelled:
        return list(rows)
    files: dict[str, Counter[str]] = {}
    for row in rows:
        if row.split == "train":
            if not row.tags.get(group):
                raise UserError(
                    f"{row.file} has no '{group}', by which --labelled counts; fill it in."
                )
            files.setdefault(row.patient, Counter())[row.tags[group]] += 1
    left = Counter({name: labelled for counts in files.values() for name in counts})
    kept: set[str] = set()
    for name in sorted(left):
        for patient in draw((each for each in files if name in files[each]), name, seed):
            if patient not in kept and files[patient] <= left:
                kept.add(patient)
                left.subtract(files[patient])
    return [
        replace(row, split="style") if row.split == "train" and row.patient not in kept else row
        for row in rows
    ]


def divide(
    names: Iterable[str], shares: Mapping[str, float], key: str, seed: int
) -> dict[str, str]:
    """Divides names among splits at random: name -> split.

    Args:
      names: patients.
      shares: split -> share of the names; the last split takes the rest. Each gets at least one
        while there are any.
      key, seed: as in draw.
    """
    order, result = draw(names, key, seed), {}
    total, last = len(order), list(shares)[-1]
    for split, share in shares.items():
        count = len(order) if split == last else max(round(share * total), 1)
        result |= dict.fromkeys(order[:count], split)
        order = order[count:]
    return result


def describe(rows: Sequence[Row], group: str = "") -> str:
    """One line of numbers: files and patients of each split, and of each group within."""
    parts = []
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split]
        if not chosen:
            continue
        text = f"{split} {len(chosen)} files of {len({row.patient for row in chosen})} patients"
        if group:
            counts = Counter(row.tags.get(group, "") for row in chosen)
            text += f" ({', '.join(f'{name} {count}' for name, count in sorted(counts.items()))})"
        parts.append(text)
    return "; ".join(parts)
