"""What this device reaches with one large matrix product: the ceiling that a share of FLOP/s (MFU)
is taken of.

It is measured, not read from a data sheet, because a data sheet knows nothing of clocks, power
limits or neighbors.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from stedm_jax.bench.timing import Times, alternate

CPU_SIDE, OTHER_SIDE = 2048, 8192
CALLS = 6


def our_product(dtype: DTypeLike, side: int, device: Any) -> Callable[[], None]:
    """A call that multiplies two square matrices in `dtype` with XLA."""
    a, b = (jax.device_put(jnp.full((side, side), 0.01, dtype), device) for _ in range(2))
    product = jax.jit(lambda a, b: a @ b)

    def call() -> None:
        jax.block_until_ready(product(a, b))

    return call


def ceiling(
    products: Mapping[str, Callable[[], None]],
    side: int,
    measure: Callable[..., dict[str, Times]] = alternate,
) -> tuple[float, float]:
    """FLOP a second, and FLOP a second of the processor, of the fastest product; each the best of a
    few calls."""
    times = measure(products, 0.0, rounds=CALLS).values()
    wall, cpu = min(each.least for each in times), min(each.least_cpu for each in times)
    work = 2.0 * side**3
    return work / max(wall, 1e-9), work / max(cpu, 1e-9)
