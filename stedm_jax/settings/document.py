"""Every key as Markdown: python -m stedm_jax.settings > docs/configuration.md."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from stedm_jax.settings.key import known
from stedm_jax.settings.read import type_hints, type_name
from stedm_jax.settings.root import Settings

INTRODUCTION = """# Configuration

All keys with their defaults, which are those of the STEDM paper (ECCV 2024). A config file starts
from them (`from configs.base import get_base`) and changes values; the command line changes single
ones: `--config.diffusion.train.steps=1000`. Lengths are in pixels, resolutions in microns per
pixel, times in steps. A dagger (†) marks keys that change no result.

This page is made by `python -m stedm_jax.settings > docs/configuration.md`.
"""


def document() -> str:
    """The page."""
    return "\n".join([INTRODUCTION, *_section(Settings(), "config", True)])


def _section(node: Any, where: str, changes: bool) -> Iterator[str]:
    hints, below, entries = type_hints(type(node)), [], []
    yield f"## {where}\n\n{inspect.getdoc(type(node))}\n"
    yield "| key | type | default | values | meaning |\n|---|---|---|---|---|"
    for field in fields(node):
        about, value = known(field), getattr(node, field.name)
        if is_dataclass(hints[field.name]):
            below.append((value, f"{where}.{field.name}", changes and about.changes))
            continue
        if isinstance(value, Mapping):
            like = next(iter(value.values()))
            entries += [(like, f"{where}.{field.name}.NAME", changes)] if is_dataclass(like) else []
        mark = "" if changes and about.changes else " †"
        cells = (
            f"`{field.name}`{mark}",
            type_name(hints[field.name]),
            f"`{_shown(value)}`",
            about.limits.removeprefix("valid are ").removeprefix("give "),
            about.meaning,
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for each in below + entries:
        yield from _section(*each)


def _shown(value: Any) -> str:
    """A default as a config file would have it."""
    if isinstance(value, Mapping):
        return ", ".join(value) if any(map(is_dataclass, value.values())) else repr(value)
    return repr(value)
