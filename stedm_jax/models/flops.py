"""Cost of a function in floating-point operations, without running or compiling it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from stedm_jax.models.convolution import as_published


def forward_flops(fn: Callable[..., Any], *abstract_args: Any) -> float:
    """FLOPs of one call of `fn`, where one multiplication with addition counts as two.

    `abstract_args` are arrays or `jax.ShapeDtypeStruct`, in nested dicts if need be. Counted on the
    traced program before XLA's optimisation, so that it takes seconds and no memory at any size. What is done for a
    CPU alone (`convolution.py`) is not counted.
    """
    with as_published():
        analysis = jax.jit(lambda *args: fn(*args)).lower(*abstract_args).cost_analysis()
    if analysis is None or "flops" not in analysis:
        raise ValueError("this backend cannot count the operations of a lowered program")
    return float(analysis["flops"])


def product_flops(fn: Callable[..., Any], *abstract_args: Any) -> float:
    """FLOPs of the matrix products and convolutions alone, which is what papers and other tools count.

    Arguments as those of `forward_flops`. A convolution counts its padding too, and a transposed one only what falls
    on its input, as other tools do. Of a loop that ends by a condition one turn is counted.
    """
    with as_published():
        return traced_flops(jax.make_jaxpr(lambda *args: fn(*args))(*abstract_args))


def traced_flops(program: Any) -> float:
    """As `product_flops`, of a program that was traced before (`jax.core.ClosedJaxpr`)."""
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
