"""The products of a traced program, counted: what papers, and shares of a device's peak, are
about."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax

_NETWORK = re.compile(r"network:(\w+)")
_REST = "the rest"


def counted_as(network: str) -> Any:
    """A context: what is traced within is of this network to `flops_by_network`, and so are its
    gradients."""
    return jax.named_scope(f"network:{network}")


def traced_flops(program: Any) -> float:
    """FLOPs of the matrix products and convolutions of a traced program (`jax.core.ClosedJaxpr`),
    over all devices.

    A multiplication with its addition is two. A convolution counts its padding too, and a
    transposed one only what falls on its input, as other tools do. Loops of known length count as
    often as they turn; of a loop that ends by a condition one turn is counted.
    """
    return float(_products(program.jaxpr).total())


def flops_by_network(program: Any) -> dict[str, float]:
    """`traced_flops` of each network (`counted_as`; of one within another, the outer one), and what
    is of none."""
    return {
        name: float(number) for name, number in _products(program.jaxpr).most_common() if number
    }


def _products(jaxpr: Any, within: str = "") -> Counter[str]:
    total: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, [each.aval for each in equation.outvars]
        # A program that is called begins with no scope of its own.
        found = None if within else _NETWORK.search(str(equation.source_info.name_stack))
        network = within or (found[1] if found else "")
        if name == "dot_general":
            (axes, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in axes)
            total[network or _REST] += 2 * out[0].size * inner
        elif name == "conv_general_dilated":
            kernel, holes = equation.invars[1].aval, math.prod(equation.params["lhs_dilation"])
            filters = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total[network or _REST] += 2 * out[0].size * kernel.size // filters // holes
        else:
            turns = equation.params.get("length", 1) if name == "scan" else 1
            turns *= (
                equation.params["mesh"].size if name == "shard_map" else 1
            )  # its shapes are those of one device
            parts = [_products(each, network) for each in _programs(equation.params)]
            if name == "cond":
                parts = [max(parts, key=Counter.total)]
            for part in parts:
                total.update({key: turns * number for key, number in part.items()})
    return total


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """The programs among the parameters of an equation: the body of a loop, a function that is
    called."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                yield program
