"""From the names and layouts of PyTorch to ours and back: one table a network, read in both
directions.

A rule is a pair of templates. `{name}` stands for any text and `{name:d}` for digits; what it
stands for is carried over, with dots for slashes. The first rule that fits wins, and every table
ends with the usual ones:

    a.b.weight  <->  a/b/scale   one axis: a norm
                     a/b/kernel  linear (o, i) <-> (i, o), convolution (o, i, *space) <-> (*space,
                     i, o)
    a.b.name    <->  a/b/name    everything else: biases, running statistics, tokens
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError

Tree = dict[str, Any]
Change = Callable[[np.ndarray], np.ndarray]


def _kernel(x: np.ndarray) -> np.ndarray:
    return x.transpose(*range(2, x.ndim), 1, 0)


def _weight(x: np.ndarray) -> np.ndarray:
    return x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))


LAYOUTS: dict[str, tuple[Change, Change]] = {
    "same": (lambda x: x, lambda x: x),
    "kernel": (_kernel, _weight),
    # A convolution of one pixel that we keep as a linear layer.
    "conv1x1": (lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[:, :, None, None]),
    "conv1d1": (lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[:, :, None]),
}
"""Layout -> (from PyTorch, to PyTorch)."""


@dataclass(frozen=True)
class Rule:
    """Names that correspond, and how the array is laid out.

    Attributes:
      torch: template of the PyTorch name; ours: of our path.
      layout: a key of LAYOUTS.
      ndim: the rule holds only for arrays of so many axes; 0: any.
    """

    torch: str
    ours: str
    layout: str = "same"
    ndim: int = 0


Table = Sequence[Rule]
Form = Callable[[Mapping[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]
"""Tensors under published names -> those of each published file, by its name without ending."""
USUAL: Table = (
    Rule("{a}.weight", "{a}/scale", ndim=1),
    Rule("{a}.weight", "{a}/kernel", "kernel"),
    Rule("{a}", "{a}"),
)


@functools.cache
def _regex(template: str) -> re.Pattern[str]:
    pieces = re.split(r"(\{\w+(?::d)?\})", template)
    out = ""
    for piece in pieces:
        if piece.startswith("{"):
            name, digits = piece.strip("{}").removesuffix(":d"), piece.endswith(":d}")
            out += rf"(?P<{name}>{'[0-9]+' if digits else '.+'})"
        else:
            out += re.escape(piece)
    return re.compile(out)


def _fill(template: str, found: Mapping[str, str], old: str, new: str) -> str:
    fill = lambda piece: found[piece[1].removesuffix(":d")].replace(old, new)  # noqa: E731
    return re.sub(r"\{(\w+(?::d)?)\}", fill, template)


def our_name(name: str, ndim: int, table: Table) -> tuple[str, str]:
    """Our path of a PyTorch name, and the layout of its array."""
    for rule in (*table, *USUAL):
        found = _regex(rule.torch).fullmatch(name)
        if found and rule.ndim in (0, ndim):
            return _fill(rule.ours, found.groupdict(), ".", "/"), rule.layout
    raise AssertionError("the last of the usual rules fits everything")


def torch_name(path: str, ndim: int, table: Table) -> tuple[str, str]:
    """The PyTorch name of a path of ours, and the layout of its array. `ndim` is that of our
    array."""
    for rule in (*table, *USUAL):
        found = _regex(rule.ours).fullmatch(path)
        published = {"conv1x1": 4, "conv1d1": 3}.get(rule.layout, ndim)
        if found and rule.ndim in (0, published):
            return _fill(rule.torch, found.groupdict(), "/", "."), rule.layout
    raise AssertionError("the last of the usual rules fits everything")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Path -> leaf of a nested dict."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= (
            flatten(value, f"{prefix}{name}/")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return out


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """A nested dict from path -> leaf."""
    tree: Tree = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = leaf
    return tree


def from_torch(
    tensors: Mapping[str, np.ndarray],
    abstract: Mapping[str, Any],
    table: Table = (),
    *,
    ignore: Iterable[str] = (),
    load_only: Iterable[str] = (),
    leave_unknown: bool = False,
    where: str = "the weights",
) -> Tree:
    """Parameters of ours from the tensors of a state dict.

    Args:
      tensors: by PyTorch name.
      abstract: our parameters; leaves need a shape and a dtype only.
      table: of the network; the usual rules follow it.
      ignore: regular expressions of PyTorch names that are left alone (buffers, optimiser state).
      load_only: regular expressions of our paths; only these are loaded, and only these are in the
        result. Empty: all.
      leave_unknown: names that the network does not have are left alone, rather than refused.
      where: what the weights are called in an error.

    Raises:
      UserError: lists every name that is missing, unexpected or of another shape.
    """
    skipped, chosen = (
        [re.compile(each) for each in ignore],
        [re.compile(each) for each in load_only],
    )
    wanted = everything = flatten(abstract)
    if chosen:
        wanted = {
            path: leaf for path, leaf in wanted.items() if any(each.search(path) for each in chosen)
        }
        if not wanted:
            raise UserError(
                f"load_only ({', '.join(load_only)}) fits no parameter of this network; check the names."
            )
    out: dict[str, np.ndarray] = {}
    unexpected, shapes = [], []
    for name, tensor in tensors.items():
        if any(each.search(name) for each in skipped):
            continue
        path, layout = our_name(name, tensor.ndim, table)
        if path not in wanted:
            if path not in everything and not leave_unknown:
                unexpected.append(name)
            continue
        try:
            array = LAYOUTS[layout][0](tensor)
        except ValueError:  # more axes than the layout has
            array = tensor
        if array.shape != tuple(wanted[path].shape):
            shapes.append(f"{name} {tensor.shape}, needed {_as_torch(wanted[path].shape, layout)}")
            continue
        out[path] = np.array(array, dtype=wanted[path].dtype, order="C", copy=None)
    missing = [
        torch_name(path, len(wanted[path].shape), table)[0] for path in wanted if path not in out
    ]
    missing = [name for name in missing if not any(text.startswith(f"{name} ") for text in shapes)]
    strange = (
        " at all: none of their names is one of its" if unexpected and not (out or shapes) else ""
    )
    _refuse(f"{where} do not fit this network{strange}", missing, unexpected, shapes)
    return unflatten(out)


def to_torch(params: Mapping[str, Any], table: Table = ()) -> dict[str, np.ndarray]:
    """The state dict of parameters of ours, under the published names."""
    out: dict[str, np.ndarray] = {}
    for path, leaf in flatten(params).items():
        array = np.asarray(leaf)
        name, layout = torch_name(path, array.ndim, table)
        if name in out:
            raise ValueError(f"{path} and another parameter are both called {name}")
        out[name] = np.asarray(LAYOUTS[layout][1](array), order="C")
    return out


def _as_torch(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    return LAYOUTS[layout][1](np.broadcast_to(np.float32(0), tuple(shape))).shape


def _refuse(
    what: str, missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str]
) -> None:
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    found = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds if names]
    if found:
        raise UserError(
            f"{what}. Check that name and file belong together, or load a part with --load_only. {'; '.join(found)}."
        )
