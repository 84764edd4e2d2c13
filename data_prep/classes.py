"""Which classes a tile set has, and which names in the annotations mean them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stedm_jax.data.schema import VOID, ClassSpec
from stedm_jax.errors import UserError

PALETTE = (
    (150, 200, 150), (200, 0, 0), (60, 60, 160), (240, 180, 30), (140, 70, 180), (40, 170, 200),
    (230, 120, 170), (120, 120, 120), (100, 60, 20), (200, 220, 80),
)  # fmt: skip
"""Colours of classes for which no file gives one."""


@dataclass(frozen=True)
class ClassPlan:
    """Classes by id, what name in a file has what id, and the value of what lies outside all polygons."""

    classes: tuple[ClassSpec, ...]
    ids: dict[str, int]
    outside: int


def parse_classes(text: str) -> dict[str, tuple[str, ...]]:
    """Reads "stroma,tumour=Tumor|tumor" as class -> names in the files.

    Raises:
      UserError: an empty or doubled name.
    """
    classes: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        name, _, names = part.partition("=")
        name = name.strip()
        if not name or name in classes:
            raise UserError(f"--classes={text}: '{name}' is empty or named twice; give each class once.")
        classes[name] = tuple(other.strip() for other in names.split("|")) if names else (name,)
    return classes


def palette(number: int) -> tuple[int, int, int]:
    """A colour for a class without one."""
    return PALETTE[number % len(PALETTE)]


def plan_classes(
    found: Mapping[str, tuple[int, int, int] | None],
    wanted: str | None,
    void: Sequence[str] = (),
    ignore: Sequence[str] = (),
    background: str | None = None,
) -> ClassPlan:
    """Decides the classes of a tile set.

    Args:
      found: class names in the annotations, with their colours where known.
      wanted: value of --classes; None takes all names that were found, sorted.
      void: names that mean "unlabelled here", drawn as VOID.
      ignore: names that are not drawn.
      background: class of what lies outside all polygons, the first class if not among them; None is
        VOID.

    Raises:
      UserError: a name in the annotations is not accounted for, no classes or too many.
    """
    stray = [name for name in (*void, *ignore) if name not in found]
    if stray:
        raise UserError(
            f"--void or --ignore names {', '.join(stray)}, which no annotation has; found are "
            f"{', '.join(sorted(found)) or 'none'}. Mend the name, or leave it out."
        )
    named = [name for name in sorted(found) if name not in (*void, *ignore)]
    classes = parse_classes(wanted) if wanted else {name: (name,) for name in named}
    if background is not None and background not in classes:
        classes = {background: (background,), **classes}
    ids = {alias: i for i, aliases in enumerate(classes.values()) for alias in aliases}
    unknown = [name for name in named if name not in ids]
    if unknown:
        raise UserError(
            f"The annotations hold classes that --classes does not name: {', '.join(unknown)}. Found in all: "
            f"{', '.join(sorted(found))}. Name them (a class of other spellings: tumour=Tumor|tumor), "
            "or list them "
            "in --void (unlabelled there) or --ignore (not drawn)."
        )
    if len(classes) >= VOID:
        raise UserError(f"{len(classes)} classes are too many; a mask holds {VOID} at most.")
    if not classes:
        raise UserError("No annotation names a class and --classes is not given; say which classes there are.")
    colors = {name: next((found[a] for a in aliases if found.get(a)), None) for name, aliases in classes.items()}
    specs = tuple(ClassSpec(name, colors[name] or palette(i)) for i, name in enumerate(classes))
    ids |= {name: VOID for name in void}
    outside = VOID if background is None else list(classes).index(background)
    return ClassPlan(specs, ids, outside)
