"""Which classes a tile set has, and which names in the annotations mean them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.schema import ClassSpec

RGB = tuple[int, int, int]
PALETTE = (
    (150, 200, 150),
    (200, 0, 0),
    (60, 60, 160),
    (240, 180, 30),
    (140, 70, 180),
    (40, 170, 200),
    (230, 120, 170),
    (120, 120, 120),
    (100, 60, 20),
    (200, 220, 80),
)
"""Colours of classes for which no file gives one."""
UNLIKE = 48
"""Least difference, in one channel, between a colour of the palette and any that a file gives."""


@dataclass(frozen=True)
class ClassPlan:
    """The classes of a tile set, and what means them.

    Attributes:
      classes: by id.
      ids: name in the files -> id, or VOID.
      outside: value of what lies outside all polygons, an id or VOID.
      background: id of the class that is background; None: there is none.
    """

    classes: tuple[ClassSpec, ...]
    ids: dict[str, int]
    outside: int
    background: int | None = None


@dataclass(frozen=True)
class ClassRule:
    """What --classes says of a class: the names in the files that mean it, and its colour."""

    names: tuple[str, ...]
    color: RGB | None = None


def read_classes(text: str) -> dict[str, ClassRule]:
    """Reads "stroma,tumour:#c80000=Tumor|tumor", or FILE.json of {"tumour": {"from": ["Tumor"],
    "color": "#c80000"}}.

    Returns:
      class -> rule, by id. In JSON a list stands for "from", and null for the class's own name.

    Raises:
      UserError: an empty or doubled name, a colour that is none, or no such file.
    """
    if text.endswith(".json"):
        return _read_json(Path(text))
    classes: dict[str, ClassRule] = {}
    for part in text.split(","):
        name, _, names = (piece.strip() for piece in part.partition("="))
        color = None
        if (head := name.rpartition(":"))[2].startswith("#"):
            name, color = head[0].strip(), parse_color(head[2], f"--classes={text}")
        if not name or name in classes:
            raise UserError(
                f"--classes={text}: '{name}' is empty or named twice; give each class once."
            )
        aliases = tuple(other.strip() for other in names.split("|")) if names else (name,)
        classes[name] = ClassRule(aliases, color)
    _check_aliases(classes, f"--classes={text}")
    return classes


def _read_json(path: Path) -> dict[str, ClassRule]:
    where = f"--classes={path}"
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        entries = {
            name: entry
            if isinstance(entry, dict)
            else {"from": entry if entry is not None else [name]}
            for name, entry in data.items()
        }
        classes = {
            name: ClassRule(
                tuple(str(alias) for alias in entry.get("from", [name])),
                parse_color(entry["color"], where) if entry.get("color") else None,
            )
            for name, entry in entries.items()
        }
    except FileNotFoundError as error:
        raise UserError(f"{where} is no file; correct the path.") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f'{where} holds no object such as {{"tumour": {{"from": ["Tumor"], "color": "#c80000"}}}} ({error}).'
        ) from error
    if not classes or "" in classes:
        raise UserError(f"{where} names no class, or one without a name; give each class once.")
    _check_aliases(classes, where)
    return classes


def _check_aliases(classes: Mapping[str, ClassRule], where: str) -> None:
    owner: dict[str, str] = {}
    for name, rule in classes.items():
        for alias in rule.names:
            if owner.setdefault(alias, name) != name:
                raise UserError(
                    f"{where}: '{alias}' is to be both {owner[alias]} and {name}; decide for one."
                )


def parse_color(text: object, where: str) -> RGB:
    """Reads "#c80000".

    Raises:
      UserError: it is no such colour; `where` is told.
    """
    if not isinstance(text, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise UserError(f"{where}: '{text}' is no colour; write #RRGGBB in hexadecimal.")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def parse_classes(text: str) -> dict[str, tuple[str, ...]]:
    """Reads --classes as class -> names in the files; see read_classes."""
    return {name: rule.names for name, rule in read_classes(text).items()}


def palette(number: int) -> RGB:
    """A colour for a class without one."""
    return PALETTE[number % len(PALETTE)]


def _free_color(number: int, taken: Sequence[RGB]) -> RGB:
    """A colour of the palette that nobody takes for one that is taken, as long as there is such."""
    for step in range(len(PALETTE)):
        color = palette(number + step)
        if all(
            max(abs(a - b) for a, b in zip(color, other, strict=True)) >= UNLIKE for other in taken
        ):
            return color
    return palette(number)


def _check_found(options: Mapping[str, Sequence[str]], found: Mapping[str, RGB | None]) -> None:
    """Refuses names in options that no annotation has."""
    for option, names in options.items():
        stray = [name for name in names if name not in found]
        if stray:
            raise UserError(
                f"--{option} names {', '.join(stray)}, which no annotation has; found are "
                f"{', '.join(sorted(found)) or 'none'}. Mend the name, or leave it out."
            )


def plan_classes(
    found: Mapping[str, RGB | None],
    wanted: str | None,
    void: Sequence[str] = (),
    ignore: Sequence[str] = (),
    background: str | None = None,
    *,
    complete: bool = True,
    rois: Sequence[str] = (),
) -> ClassPlan:
    """Decides the classes of a tile set.

    Args:
      found: class names in the annotations, with their colours where known.
      wanted: value of --classes; None takes all names that were found, sorted.
      void: names that mean "unlabelled here", drawn as VOID.
      ignore: names that are not drawn.
      background: class of background, the first class if not among them; None: there is none, and
        what lies outside all polygons is VOID.
      complete: with a background, whether what lies outside all polygons is background; if not it
        is VOID.
      rois: names of regions of interest; they are no classes unless --classes names them.

    Raises:
      UserError: a name in the annotations is not accounted for, no classes or too many.
    """
    _check_found({"void or --ignore": (*void, *ignore), "rois": rois}, found)
    named = [name for name in sorted(found) if name not in (*void, *ignore, *rois)]
    rules = read_classes(wanted) if wanted else {name: ClassRule((name,)) for name in named}
    if background is not None and background not in rules:
        rules = {background: ClassRule((background,)), **rules}
    ids = {alias: i for i, rule in enumerate(rules.values()) for alias in rule.names}
    unknown = [name for name in named if name not in ids]
    if unknown:
        raise UserError(
            f"The annotations hold classes that --classes does not name: {', '.join(unknown)}. Found in all: "
            f"{', '.join(sorted(found))}. Name them (a class of other spellings: tumour=Tumor|tumor), or list them "
            "in --void (unlabelled there) or --ignore (not drawn)."
        )
    if len(rules) >= VOID:
        raise UserError(f"{len(rules)} classes are too many; a mask holds {VOID} at most.")
    if not rules:
        raise UserError(
            "No annotation names a class and --classes is not given; say which classes there are."
        )
    colors = {
        name: rule.color
        or next((color for alias in rule.names if (color := found.get(alias))), None)
        for name, rule in rules.items()
    }
    for number, name in enumerate(rules):
        colors[name] = colors[name] or _free_color(
            number, [color for color in colors.values() if color]
        )
    ids |= {name: VOID for name in void}
    for name in ignore:
        ids.pop(name, None)
    number = None if background is None else list(rules).index(background)
    specs = tuple(ClassSpec(name, color or palette(0)) for name, color in colors.items())
    return ClassPlan(specs, ids, number if complete and number is not None else VOID, number)


def unseen_classes(plan: ClassPlan, found: Mapping[str, RGB | None]) -> list[str]:
    """Classes of which no annotation has a polygon, the background apart."""
    seen = {plan.ids[name] for name in found if name in plan.ids}
    return [
        spec.name for i, spec in enumerate(plan.classes) if i not in seen and i != plan.background
    ]
