"""Cost of a function in floating-point operations, without running or compiling it."""

from collections.abc import Callable
from typing import Any

import jax

from stedm_jax.common.flop_counts import traced_flops
from stedm_jax.models.convolution import as_published


def forward_flops(fn: Callable[..., Any], *abstract_args: Any) -> float:
    """FLOPs of one call of `fn`, where one multiplication with addition counts as two.

    `abstract_args` are arrays or `jax.ShapeDtypeStruct`, in nested dicts if need be. Counted on the
    traced program before XLA's optimization, so that it takes seconds and no memory at any size.
    What is done for a CPU alone (`convolution.py`) is not counted.
    """
    with as_published():
        analysis = jax.jit(lambda *args: fn(*args)).lower(*abstract_args).cost_analysis()
    if analysis is None or "flops" not in analysis:
        raise ValueError("this backend cannot count the operations of a lowered program")
    return float(analysis["flops"])


def product_flops(fn: Callable[..., Any], *abstract_args: Any) -> float:
    """FLOPs of the matrix products and convolutions alone, which is what papers and other tools
    count.

    Arguments as those of `forward_flops`. A convolution counts its padding too, and a transposed
    one only what falls on its input, as other tools do. Of a loop that ends by a condition one turn
    is counted.
    """
    with as_published():
        return traced_flops(jax.make_jaxpr(lambda *args: fn(*args))(*abstract_args))
