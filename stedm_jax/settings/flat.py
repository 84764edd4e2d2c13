"""Settings as dotted keys with plain values, as config.json has them, and back."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ml_collections import ConfigDict

from stedm_jax.settings.key import known


def to_dict(node: Any, results: bool = False) -> Any:
    """A section as nested dicts; with `results`, without the keys that change no result, among them
    those added `later` that have their default."""
    if isinstance(node, Mapping | ConfigDict):
        return {name: to_dict(each, results) for name, each in node.items()}
    if not is_dataclass(node):
        return node
    found = {}
    for field in fields(node):
        about, value = known(field), getattr(node, field.name)
        left_out = about.terse or (about.later and results)
        if (about.changes or not results) and not (left_out and value == field.default):
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


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from dotted keys."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return found
