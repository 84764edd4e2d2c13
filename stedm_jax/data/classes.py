"""From the classes of a tile set to those of an experiment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.schema import ClassSpec

_COLORS = (
    (230, 230, 230),
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
)


@dataclass(frozen=True)
class ClassMap:
    """The classes that an experiment learns.

    Attributes:
      names: their names; the position is the id.
      colors: their colors.
      table: uint8 (256,), id in the tile set -> id here, or VOID.
      foreground: ids that the scores are about.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    table: np.ndarray
    foreground: tuple[int, ...]


def class_map(
    classes: Sequence[ClassSpec] | None,
    groups: Sequence[tuple[str, Sequence[str]]],
    foreground: Sequence[str],
) -> ClassMap:
    """Builds the map from config.data.groups and config.data.foreground.

    Args:
      classes: classes of the tile set; None before there is one (then the groups are taken at their
        word).
      groups: (name, names of the classes it merges) pairs; empty keeps the classes as they are. A
        class in no group counts as unlabeled.
      foreground: names (after grouping) that scores are about; empty: all but the first.

    Raises:
      UserError: a class is in two groups, is unknown, or there is nothing to learn.
    """
    if not groups:
        if classes is None:
            raise UserError(
                "config.data.groups is empty and there is no tile set yet that has the classes."
            )
        groups = [(spec.name, (spec.name,)) for spec in classes]
    names = tuple(name for name, _ in groups)
    members = [member for _, group in groups for member in group]
    twice = sorted({member for member in members if members.count(member) > 1})
    if twice:
        raise UserError(
            f"config.data.groups names {', '.join(twice)} twice; a class belongs to one group."
        )
    unknown = [name for name in foreground if name not in names]
    if unknown:
        raise UserError(
            f"config.data.foreground names {', '.join(unknown)}; the classes are "
            f"{', '.join(names)}."
        )
    if len(names) < 2:
        raise UserError(
            f"There is one class ({', '.join(names)}); two at least are needed, with a background."
        )
    table = np.full(256, VOID, np.uint8)
    colors = {}
    if classes is not None:
        ids = {spec.name: number for number, spec in enumerate(classes)}
        missing = [member for member in members if member not in ids]
        if missing:
            raise UserError(
                f"config.data.groups names {', '.join(missing)}; the tile set has {', '.join(ids)}."
            )
        for group, (name, group_members) in enumerate(groups):
            for member in group_members:
                table[ids[member]] = group
                colors.setdefault(name, classes[ids[member]].color)
    chosen = [colors.get(name, _COLORS[i % len(_COLORS)]) for i, name in enumerate(names)]
    ids_of_foreground = [names.index(name) for name in foreground] or list(range(1, len(names)))
    return ClassMap(names, tuple(chosen), table, tuple(ids_of_foreground))
