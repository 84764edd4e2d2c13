"""Cost of a function in floating-point operations, without running or compiling it."""

from collections.abc import Callable
from typing import Any

import jax


def forward_flops(fn: Callable[..., Any], *abstract_args: Any) -> float:
    """FLOPs of one call of `fn`, where one multiplication with addition counts as two.

    `abstract_args` are arrays or `jax.ShapeDtypeStruct`, in nested dicts if need be. Counted on the
    traced program before XLA's optimisation, so that it takes seconds and no memory at any size.
    """
    analysis = jax.jit(fn).lower(*abstract_args).cost_analysis()
    if analysis is None or "flops" not in analysis:
        raise ValueError("this backend cannot count the operations of a lowered program")
    return float(analysis["flops"])
