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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.training.param_paths import named, nested

Change = Callable[[np.ndarray], np.ndarray]


LAYOUTS: dict[str, tuple[Change, Change]] = {
    "same": (lambda x: x, lambda x: x),
    "kernel": (
        lambda x: np.moveaxis(x, (0, 1), (-1, -2)),
        lambda x: np.moveaxis(x, (-1, -2), (0, 1)),
    ),
    # A convolution of one pixel that we keep as a linear layer.
    "conv1x1": (lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[:, :, None, None]),
    "conv1d1": (lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[:, :, None]),
    # A linear layer that we keep as a convolution, of the whole map or of one pixel.
    "linear7x7": (
        lambda x: x.reshape(x.shape[0], -1, 7, 7).transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1).reshape(x.shape[3], -1),
    ),
    "linear1x1": (lambda x: x.T[None, None], lambda x: x[0, 0].T),
}
"""Layout -> (from PyTorch, to PyTorch)."""
_PUBLISHED_NDIM = {"conv1x1": 4, "conv1d1": 3}
"""Layout -> axes of the published array, where rules that ask for them change their number."""


@dataclass(frozen=True)
class Rule:
    """Names that correspond, and how the array is laid out.

    Attributes:
      torch: template of the PyTorch name; ours: of our path.
      layout: a key of LAYOUTS.
      ndim: the rule holds only for published arrays of so many axes; 0: any.
    """

    torch: str
    ours: str
    layout: str = "same"
    ndim: int = 0


Table = Sequence[Rule]


def moved(theirs: str, ours: str) -> Table:
    """The usual rules for names that begin with `theirs`, and paths that begin with `ours`."""
    return (
        Rule(f"{theirs}.weight", f"{ours}/scale", ndim=1),
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/scale", ndim=1),
        Rule(f"{theirs}.weight", f"{ours}/kernel", "kernel"),
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/kernel", "kernel"),
        Rule(f"{theirs}.{{a}}", f"{ours}/{{a}}"),
    )


USUAL: Table = (
    Rule("{a}.weight", "{a}/scale", ndim=1),
    Rule("{a}.weight", "{a}/kernel", "kernel"),
    Rule("{a}", "{a}"),
)


@functools.cache
def _regex(template: str) -> re.Pattern[str]:
    def group(piece: re.Match[str]) -> str:
        return f"(?P<{piece[1]}>{'[0-9]+' if piece[2] else '.+'})"

    return re.compile(re.sub(r"\\{(\w+)(:d)?\\}", group, re.escape(template)))


def _fill(template: str, found: re.Match[str], old: str, new: str) -> str:
    return re.sub(r"{(\w+)(:d)?}", lambda piece: found[piece[1]].replace(old, new), template)


def our_name(name: str, ndim: int, table: Table) -> tuple[str, str]:
    """Our path of a PyTorch name, and the layout of its array."""
    for rule in (*table, *USUAL):
        found = _regex(rule.torch).fullmatch(name)
        if found and rule.ndim in (0, ndim):
            return _fill(rule.ours, found, ".", "/"), rule.layout
    raise AssertionError("the last of the usual rules fits everything")


def torch_name(path: str, ndim: int, table: Table) -> tuple[str, str]:
    """The PyTorch name of a path of ours, and the layout of its array. `ndim` is that of our
    array."""
    for rule in (*table, *USUAL):
        found = _regex(rule.ours).fullmatch(path)
        if found and rule.ndim in (0, _PUBLISHED_NDIM.get(rule.layout, ndim)):
            return _fill(rule.torch, found, "/", "."), rule.layout
    raise AssertionError("the last of the usual rules fits everything")


def from_torch(
    tensors: Mapping[str, np.ndarray],
    abstract: dict[str, Any],
    table: Table = (),
    *,
    ignore: Sequence[str] = (),
    load_only: Sequence[str] = (),
    leave_unknown: bool = False,
    where: str = "the weights",
    advice: str = "Check that name and file belong together, or load a part with --load_only.",
) -> dict[str, Any]:
    """Parameters of ours from the tensors of a state dict.

    Args:
      tensors: by PyTorch name.
      abstract: our parameters; leaves need a shape and a dtype only.
      table: of the network; the usual rules follow it.
      ignore: regular expressions of PyTorch names that are left alone (buffers, optimizer state).
      load_only: regular expressions of our paths; only these are loaded, and only these are in the
        result. Empty: all.
      leave_unknown: names that the network does not have are left alone, rather than refused.
      where: what the weights are called in an error.
      advice: what to do, in an error.

    Raises:
      UserError: lists every name that is missing, unexpected or of another shape.
    """
    everything = named(abstract)
    wanted = {
        path: leaf for path, leaf in everything.items() if not load_only or _fits(load_only, path)
    }
    if not wanted:
        raise UserError(
            f"load_only ({', '.join(load_only)}) fits no parameter of this network; check the "
            "names."
        )
    out: dict[str, np.ndarray] = {}
    shapes: dict[str, str] = {}
    unexpected = []
    for name, tensor in tensors.items():
        if _fits(ignore, name):
            continue
        path, layout = our_name(name, tensor.ndim, table)
        if path in wanted:
            array = _laid_out(tensor, layout, wanted[path])
            if array is None:
                shapes[name] = f"{tensor.shape}, needed {torch_shape(wanted[path].shape, layout)}"
            else:
                out[path] = array
        elif path not in everything and not leave_unknown:
            unexpected.append(name)
    lost = (
        torch_name(path, len(wanted[path].shape), table)[0] for path in wanted if path not in out
    )
    missing = [name for name in lost if name not in shapes]
    _refuse(where, missing, unexpected, shapes, not out, advice)
    return nested(out)


def _fits(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _laid_out(tensor: np.ndarray, layout: str, leaf: Any) -> np.ndarray | None:
    """A tensor as our array; None if it has another shape."""
    try:
        array = LAYOUTS[layout][0](tensor)
    except (ValueError, IndexError):  # more or fewer axes than the layout has
        return None
    if array.shape != tuple(leaf.shape):
        return None
    return np.array(array, dtype=leaf.dtype, order="C", copy=None)


def torch_shape(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """Shape under the published name of an array of ours; takes no memory."""
    return LAYOUTS[layout][1](np.broadcast_to(np.float32(0), tuple(shape))).shape


def _refuse(
    where: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Mapping[str, str],
    nothing: bool,
    advice: str,
) -> None:
    of_shape = [f"{name} {shape}" for name, shape in shapes.items()]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": of_shape}
    found = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    if not found:
        return
    strange = nothing and unexpected and not shapes
    at_all = " at all: none of their names is one of its" if strange else ""
    raise UserError(f"{where} do not fit this network{at_all}. {advice} {'; '.join(found)}.")


def to_torch(params: dict[str, Any], table: Table = ()) -> dict[str, np.ndarray]:
    """The state dict of parameters of ours, under the published names."""
    out: dict[str, np.ndarray] = {}
    for path, leaf in named(params).items():
        array = np.asarray(leaf)
        name, layout = torch_name(path, array.ndim, table)
        if name in out:
            raise ValueError(f"{path} and another parameter are both called {name}")
        out[name] = np.asarray(LAYOUTS[layout][1](array), order="C")
    return out
