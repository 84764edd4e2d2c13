"""Some of the parameters, chosen by regular expressions of their paths
("unet/input_blocks/0/kernel").

An expression has to fit the whole path: "style/.*" is all of the style encoder. Trees are nested
dicts.
"""

import difflib
import re
from collections.abc import Container, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from stedm_jax.common.errors import UserError


def named(tree: Any) -> dict[str, Any]:
    """Path -> leaf of a nested dict."""
    return flatten_dict(tree, sep="/")


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `named`."""
    return unflatten_dict(leaves, sep="/")


def split(tree: Any, chosen: Container[str]) -> tuple[Any, Any]:
    """A nested dict as two: without the leaves at the paths `chosen`, and with only them."""
    leaves = named(tree)
    rest = {path: leaf for path, leaf in leaves.items() if path not in chosen}
    those = {path: leaf for path, leaf in leaves.items() if path in chosen}
    return nested(rest), nested(those)


def merged(one: Any, other: Any) -> Any:
    """What `split` took apart; `one` itself where there is no other."""
    return nested(named(one) | named(other)) if other else one


def choose(patterns: Sequence[str], names: Sequence[str], key: str, what: str) -> dict[str, str]:
    """Path -> the first of the expressions that fits it, for those paths that one fits.

    Args:
      patterns: regular expressions.
      names: paths of all that can be chosen.
      key: of the configuration, and `what` is chosen, for errors.

    Raises:
      UserError: no regular expression, or one that fits nothing new.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        try:
            fits = [name for name in names if re.fullmatch(pattern, name)]
        except re.error as error:
            raise UserError(
                f"{key} holds '{pattern}', which is no regular expression ({error})."
            ) from error
        if not fits:
            raise UserError(
                f"{key} holds '{pattern}', which fits none of {what}. {_nearest(pattern, names)}"
            )
        if found.keys() >= set(fits):
            before = ", ".join(sorted({found[name] for name in fits}))
            raise UserError(
                f"{key} holds '{pattern}', but all that it fits is fitted by {before} before it; "
                "drop one."
            )
        for name in fits:
            found.setdefault(name, pattern)
    return found


def _nearest(pattern: str, names: Sequence[str]) -> str:
    plain = re.sub(r"[\\.*+?^$()\[\]{}|]+", "", pattern).strip("/")
    paths = [name.split("/") for name in names]
    folders = {"/".join(path[:depth]) for path in paths for depth in range(1, len(path))}
    near = difflib.get_close_matches(plain, [*folders, *names], n=5, cutoff=0.4)
    tops = sorted({path[0] for path in paths})
    hint = f"The nearest are {', '.join(near)}. " if near else ""
    return (
        f"{hint}An expression has to fit a whole path, as '{tops[0]}/.*'; the paths begin with "
        f"{', '.join(tops)}."
    )
