"""Which classes a tile set has, and which names in the annotations mean them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.spelling import listed, one_blank, split_outside_quotes, unquoted, without_case
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.schema import ClassSpec

RGB = tuple[int, int, int]


def parse_color(text: object, where: str) -> RGB:
    """Reads "#c80000".

    Raises:
      UserError: it is no such color; the message names `where`.
    """
    if not isinstance(text, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise UserError(f"{where}: '{text}' is no color; write #RRGGBB in hexadecimal.")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


PALETTE = tuple(
    parse_color(text, "PALETTE")
    for text in (
        "#96c896",
        "#c80000",
        "#3c3ca0",
        "#f0b41e",
        "#8c46b4",
        "#28aac8",
        "#e678aa",
        "#787878",
        "#643c14",
        "#c8dc50",
    )
)
"""Colors of classes for which no file gives one."""
UNLIKE = 48
"""Least difference, in one channel, between a color of the palette and any that a file gives."""


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
    """What --classes says of a class: the names in the files that mean it, and its color."""

    names: tuple[str, ...]
    color: RGB | None = None


def spelled_alike(names: Iterable[str]) -> str:
    """The first names that differ in case or blanks only, for a message; "" if there are none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(without_case(name), []).append(f"'{name}'")
    return next((" and ".join(group) for group in groups.values() if len(group) > 1), "")


def read_classes(text: str) -> dict[str, ClassRule]:
    """Reads "stroma,tumour:#c80000=Tumor|tumor", or FILE.json of {"tumour": {"from": ["Tumor"],
    "color": "#c80000"}}. A name with a comma stands in double quotes.

    Returns:
      class -> rule, by id. In JSON a list stands for "from", and null for the class's own name.

    Raises:
      UserError: an empty or repeated name, an invalid color, or no such file.
    """
    where = f"--classes={text}"
    classes = _read_json(Path(text), where) if text.endswith(".json") else _read_text(text, where)
    if alike := spelled_alike(classes):
        raise UserError(f"{where}: {alike} differ in case or blanks only; give each class once.")
    owner: dict[str, str] = {}
    for name, rule in classes.items():
        for alias in rule.names:
            other = owner.setdefault(alias, name)
            if other != name:
                raise UserError(
                    f"{where}: '{alias}' is to be both {other} and {name}; decide for one of them."
                )
    return classes


def _read_text(text: str, where: str) -> dict[str, ClassRule]:
    classes: dict[str, ClassRule] = {}
    for part in split_outside_quotes(text, ","):
        name, *more = split_outside_quotes(part, "=")
        names = "=".join(more)
        color = None
        if (head := name.rpartition(":"))[2].startswith("#"):
            name, color = head[0].strip(), parse_color(head[2], where)
        name = unquoted(name)
        if not name or name in classes:
            raise UserError(f"{where}: '{name}' is empty or named twice; give each class once.")
        others = tuple(map(unquoted, split_outside_quotes(names, "|")))
        aliases = others if names else (name,)
        classes[name] = ClassRule(aliases, color)
    return classes


def _read_json(path: Path, where: str) -> dict[str, ClassRule]:
    classes: dict[str, ClassRule] = {}
    try:
        for name, entry in json.loads(path.read_text(encoding="utf-8-sig")).items():
            about = (
                entry if isinstance(entry, dict) else {"from": [name] if entry is None else entry}
            )
            color = about.get("color")
            classes[one_blank(name)] = ClassRule(
                tuple(one_blank(str(alias)) for alias in about.get("from", [name])),
                parse_color(color, where) if color else None,
            )
    except FileNotFoundError as error:
        raise UserError(f"{where} is no file; correct the path.") from error
    except (ValueError, AttributeError, TypeError) as error:
        example = '{"tumour": {"from": ["Tumor"], "color": "#c80000"}}'
        raise UserError(f"{where} holds no object such as {example} ({error}).") from error
    if not classes or "" in classes:
        raise UserError(f"{where} names no class, or one without a name; give each class once.")
    return classes


def hex_colors(texts: Mapping[str, str]) -> dict[str, RGB]:
    """Colors of classes that are written as "#c80000"."""
    return {name: parse_color(text, name) for name, text in texts.items()}


def palette(number: int) -> RGB:
    """A color for a class without one."""
    return PALETTE[number % len(PALETTE)]


def _free_color(number: int, taken: Sequence[RGB]) -> RGB:
    """A color of the palette that cannot be mistaken for one that is taken, as long as there is
    one."""
    for step in range(len(PALETTE)):
        color = palette(number + step)
        apart = (
            max(abs(a - b) for a, b in zip(color, other, strict=True)) >= UNLIKE for other in taken
        )
        if all(apart):
            return color
    return palette(number)


def fixed_plan(
    groups: Mapping[str, Sequence[str]],
    colors: Mapping[str, RGB],
    background: str | None = None,
    void: Sequence[str] = (),
) -> ClassPlan:
    """The plan for classes that are known beforehand; outside all polygons it is VOID.

    Args:
      groups: class -> names in the annotations that mean it.
      colors: of the classes; others get one of the palette.
      background: class of glass, and of what lies in no polygon where the annotation is complete.
      void: names in the annotations that mean unlabeled.
    """
    names = list(groups)
    specs = tuple(ClassSpec(name, colors.get(name, palette(i))) for i, name in enumerate(names))
    ids = {alias: i for i, aliases in enumerate(groups.values()) for alias in aliases}
    ids |= dict.fromkeys(void, VOID)
    return ClassPlan(specs, ids, VOID, None if background is None else names.index(background))


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
      found: class names in the annotations, with their colors where known.
      wanted: value of --classes; None takes all names that were found, sorted.
      void: names that mean "unlabeled here", drawn as VOID.
      ignore: names that are not drawn.
      background: class of background, the first class if not among them; None: there is none, and
        what lies outside all polygons is VOID.
      complete: with a background, whether what lies outside all polygons is background; if not it
        is VOID.
      rois: names of regions of interest; they are no classes unless --classes names them.

    Raises:
      UserError: a name in the annotations is not accounted for, no classes or too many.
    """
    every = listed(sorted(found)) or "none"
    _check_named({"void or --ignore": (*void, *ignore), "rois": rois}, found)
    named = [name for name in sorted(found) if name not in (*void, *ignore, *rois)]
    given: list[str] = [*named, background] if background else named
    listed_once = list(dict.fromkeys(given))
    if not wanted and (alike := spelled_alike(listed_once)):
        raise UserError(
            f"The annotations name {alike}, which differ in case only. Say with --classes whether "
            f"they are one class, as in tumour=Tumor|tumor, or two. Found in all: {every}."
        )
    rules = read_classes(wanted) if wanted else {name: ClassRule((name,)) for name in named}
    if background is not None and background not in rules:
        rules = {background: ClassRule((background,)), **rules}
    known = {alias for rule in rules.values() for alias in rule.names}
    if unknown := [name for name in named if name not in known]:
        raise UserError(
            f"The annotations hold classes that --classes does not name: {listed(unknown)}. "
            f"Found in all: {every}. Name them (a class of other spellings: tumour=Tumor|tumor; a "
            "name with a comma in double quotes), or list them in --void (unlabeled there) or "
            "--ignore (not drawn)."
        )
    if len(rules) >= VOID:
        raise UserError(f"{len(rules)} classes are too many; a mask holds {VOID} at most.")
    if not rules:
        raise UserError(
            "No annotation names a class and --classes is not given; say which classes there are."
        )
    groups = {
        name: [alias for alias in rule.names if alias not in ignore] for name, rule in rules.items()
    }
    plan = fixed_plan(groups, _colors(rules, found), background, void)
    fills = complete and plan.background is not None
    return replace(plan, outside=plan.background) if fills else plan


def _check_named(options: Mapping[str, Sequence[str]], found: Mapping[str, object]) -> None:
    """Refuses options that name what no annotation has."""
    for option, names in options.items():
        if stray := [name for name in names if name not in found]:
            raise UserError(
                f"--{option} names {', '.join(stray)}, which no annotation has; found are "
                f"{listed(sorted(found)) or 'none'}. Correct the name, or leave it out."
            )


def _colors(
    rules: Mapping[str, ClassRule], found: Mapping[str, RGB | None]
) -> dict[str, tuple[int, int, int]]:
    """The color of each class: what its rule says, else an annotation, else one that is free."""
    colors = {}
    for name, rule in rules.items():
        given = (rule.color, *(found.get(alias) for alias in rule.names))
        colors[name] = next((color for color in given if color), None)
    for number, name in enumerate(rules):
        colors[name] = colors[name] or _free_color(number, list(filter(None, colors.values())))
    return colors


def unseen_classes(plan: ClassPlan, found: Mapping[str, RGB | None]) -> list[str]:
    """Classes of which no annotation has a polygon, except for the background."""
    seen = {plan.ids[name] for name in found if name in plan.ids} | {plan.background}
    return [spec.name for i, spec in enumerate(plan.classes) if i not in seen]
