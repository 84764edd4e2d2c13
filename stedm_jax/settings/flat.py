"""Settings as dotted keys with plain values, as config.json has them, and back."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ml_collections import ConfigDict

from stedm_jax.settings.key import known


def to_dict(node: Any, results: bool = False) -> Any:
    """A section as nested dicts; with `results`, without the keys that change no result."""
    if isinstance(node, Mapping | ConfigDict):
        return {name: to_dict(each, results) for name, each in node.items()}
    if not is_dataclass(node):
        return node
    found = {}
    for field in fields(node):
        about, value = known(field), getattr(node, field.name)
        if (about.changes or not results) and not (about.terse and value == field.default):
            found[field.name] = to_dict(value, results)
    return found


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """A ConfigDict, mapping or section as dotted key -> JSON value; tuples become lists."""
    return dict(_flat(to_dict(node), prefix))


def results_of(section: Any, prefix: str = "") -> dict[str, Any]:
    """As `flatten`, of a section, without the keys that change no result."""
    return dict(_flat(to_dict(section, results=True), prefix))


def _flat(node: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.loads(json.dumps(value))


def nested(flat: Mapping[str, Any], like: Any) -> dict[str, Any]:
    """Nested dicts from dotted keys.

    Args:
      like: the section, which says where names of arms, generators and sets stand; these may
        contain dots.
    """
    found: dict[str, Any] = {}
    for field in fields(like):
        name, default = field.name, getattr(like, field.name)
        below = {
            key.removeprefix(f"{name}."): value
            for key, value in flat.items()
            if key.startswith(f"{name}.")
        }
        if is_dataclass(default):
            found[name] = nested(below, default)
        elif isinstance(default, Mapping) and below:
            entries = any(is_dataclass(each) for each in default.values())
            found[name] = _entries(below) if entries else below
        elif name in flat:
            found[name] = flat[name]
    return found


def _entries(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        if value == {}:
            found.setdefault(key, {})
        else:
            name, _, leaf = key.rpartition(".")
            found.setdefault(name, {})[leaf] = value
    return found
