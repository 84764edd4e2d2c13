"""Some of the parameters, chosen by regular expressions of their paths
("unet/input_blocks/0/kernel").

An expression has to fit the whole path: "style/.*" is all of the style encoder. Trees are nested
  dicts.
"""

import difflib
import re
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from stedm_jax.common.errors import UserError


def named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Path -> leaf of a nested dict."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= (
            named(value, f"{prefix}{name}/")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return out


def split(tree: Any, chosen: Container[str], prefix: str = "") -> tuple[Any, Any]:
    """A nested dict as two: without the leaves at the paths `chosen`, and with only them."""
    rest, those = {}, {}
    for name, value in tree.items():
        if isinstance(value, dict):
            below = split(value, chosen, f"{prefix}{name}/")
            for into, part in zip((rest, those), below, strict=True):
                if part:
                    into[name] = part
        else:
            (those if f"{prefix}{name}" in chosen else rest)[name] = value
    return rest, those


def merged(one: Any, other: Any) -> Any:
    """What `split` took apart; `one` itself where there is no other."""
    if not other:
        return one
    joined = dict(one)
    for name, value in other.items():
        joined[name] = (
            merged(joined[name], value) if isinstance(value, dict) and name in joined else value
        )
    return joined


def mapped(function: Callable[[str, Any], Any], tree: Any, prefix: str = "") -> Any:
    """A nested dict with function(path, leaf) in place of each leaf."""
    return {
        name: mapped(function, value, f"{prefix}{name}/")
        if isinstance(value, dict)
        else function(f"{prefix}{name}", value)
        for name, value in tree.items()
    }


def fitting(pattern: str, names: Iterable[str]) -> list[str]:
    """The paths that an expression fits."""
    return [name for name in names if re.fullmatch(pattern, name)]


def choose(patterns: Sequence[str], names: Sequence[str], key: str, what: str) -> dict[str, str]:
    """Path -> the first of the expressions that fits it, for those paths that one fits.

    Args:
      patterns: regular expressions.
      names: paths of all that can be chosen.
      key: of the configuration, and `what` is chosen, for errors.

    Raises:
      UserError: no regular expression, or one that fits nothing, or nothing that none before it
        fits.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        try:
            fits = fitting(pattern, names)
        except re.error as error:
            raise UserError(
                f"{key} holds '{pattern}', which is no regular expression ({error})."
            ) from error
        if not fits:
            raise UserError(
                f"{key} holds '{pattern}', which fits none of {what}. {_nearest(pattern, names)}"
            )
        if new := [name for name in fits if name not in found]:
            found |= dict.fromkeys(new, pattern)
        else:
            before = ", ".join(sorted({found[name] for name in fits}))
            raise UserError(
                f"{key} holds '{pattern}', but all that it fits is fitted by {before} before it; drop one."
            )
    return found


def _nearest(pattern: str, names: Sequence[str]) -> str:
    plain = re.sub(r"[\\.*+?^$()\[\]{}|]+", "", pattern).strip("/")
    folders = {
        "/".join(name.split("/")[:depth])
        for name in names
        for depth in range(1, name.count("/") + 1)
    }
    near = difflib.get_close_matches(plain, [*folders, *names], n=5, cutoff=0.4)
    tops = sorted({name.split("/")[0] for name in names})
    hint = f"The nearest are {', '.join(near)}. " if near else ""
    return f"{hint}An expression has to fit a whole path, as '{tops[0]}/.*'; the paths begin with {', '.join(tops)}."
