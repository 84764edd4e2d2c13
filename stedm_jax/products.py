"""The products of a traced program, counted: what papers, and shares of a device's peak, are about."""

import math
from collections.abc import Iterator
from typing import Any


def traced_flops(program: Any) -> float:
    """FLOPs of the matrix products and convolutions of a traced program (`jax.core.ClosedJaxpr`), over all devices.

    A multiplication with its addition is two. A convolution counts its padding too, and a transposed one only what
    falls on its input, as other tools do. Loops of known length count as often as they turn; of a loop that ends by a
    condition one turn is counted.
    """
    return float(_products(program.jaxpr))


def _products(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, [each.aval for each in equation.outvars]
        if name == "dot_general":
            (axes, _), _ = equation.params["dimension_numbers"]
            total += 2 * out[0].size * math.prod(equation.invars[0].aval.shape[axis] for axis in axes)
        elif name == "conv_general_dilated":
            kernel, holes = equation.invars[1].aval, math.prod(equation.params["lhs_dilation"])
            filters = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * out[0].size * kernel.size // filters // holes
        else:
            turns = equation.params.get("length", 1) if name == "scan" else 1
            turns *= equation.params["mesh"].size if name == "shard_map" else 1  # its shapes are those of one device
            inner = [_products(each) for each in _programs(equation.params)]
            total += turns * (max(inner, default=0) if name == "cond" else sum(inner))
    return total


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """The programs among the parameters of an equation: the body of a loop, a function that is called."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                yield program
