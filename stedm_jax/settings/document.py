"""Every key as Markdown: python -m stedm_jax.settings > docs/configuration.md."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from stedm_jax.settings.key import REQUIRED, known
from stedm_jax.settings.root import Settings
from stedm_jax.settings.section_reader import type_hints, type_name

INTRODUCTION = """# Configuration

All keys with their defaults, which are those of the STEDM paper (ECCV 2024). A config file starts
from them (`from configs.base import get_base`) and changes values; the command line changes single
ones: `--config.diffusion.train.steps=1000`. Lengths are in pixels, resolutions in microns per
pixel, times in steps. A dagger (†) marks keys that change no result.

This page is made by `python -m stedm_jax.settings > docs/configuration.md`.
"""


def document() -> str:
    """The page."""
    return "\n".join([INTRODUCTION, *_section(Settings(), "config", True, {})]).strip()


def _section(node: Any, where: str, changes: bool, seen: dict[type, Any]) -> Iterator[str]:
    """A table of a section, then those within it; of a class seen before, what differs there."""
    cls, below, rows = type(node), [], []
    first, like = seen.setdefault(cls, (where, node))
    for field in fields(node):
        about, value = known(field), getattr(node, field.name)
        kind, at = type_hints(cls)[field.name], f"{where}.{field.name}"
        if is_dataclass(value):
            below.append((value, at, changes and about.changes))
            continue
        if isinstance(value, Mapping) and is_dataclass(get_args(kind)[1]):
            entry = next(iter(value.values()), None) or get_args(kind)[1]()
            below.append((entry, f"{at}.NAME", changes))
        if first == where or value != getattr(like, field.name):
            required = where.endswith("NAME") and field.default is REQUIRED
            cells = (
                f"`{field.name}`{'' if changes and about.changes else ' †'}",
                type_name(kind),
                "required" if required else f"`{_shown(value)}`",
                about.limits.removeprefix("valid are ").removeprefix("give "),
                about.meaning,
            )
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text = (
        inspect.getdoc(cls)
        if first == where
        else f"Keys as in {first}" + (", with other defaults:" if rows else ".")
    )
    yield f"## {where}\n\n{text}\n"
    if rows:
        yield "| key | type | default | values | meaning |\n|---|---|---|---|---|"
        yield from [*rows, ""]
    for value, at, matters in below:
        yield from _section(value, at, matters, seen)


def _shown(value: Any) -> str:
    """A default as a config file would have it."""
    entries = isinstance(value, Mapping) and any(map(is_dataclass, value.values()))
    return ", ".join(value) if entries else repr(value)
