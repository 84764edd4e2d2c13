"""Exponential moving average of the parameters, with a warm-up.

(1)  d_n = min(decay, (1 + n) / (10 + n))          n = 1, 2, ... updates, this one included
(2)  ema_n = d_n * ema_{n-1} + (1 - d_n) * params_n
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def ema_decay(decay: float, updates: Int[Array, ""]) -> Float[Array, ""]:
    """Decay of equation (1) at update number `updates` (from 1)."""
    n = updates.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1.0 + n) / (10.0 + n))


def update_ema(ema: Any, params: Any, decay: float, updates: Int[Array, ""]) -> Any:
    """Equation (2) for a tree; an empty tree (no EMA kept) stays empty."""
    if not jax.tree.leaves(ema):
        return ema
    d = ema_decay(decay, updates)
    return jax.tree.map(
        lambda e, p: d.astype(e.dtype) * e + (1.0 - d).astype(e.dtype) * p.astype(e.dtype),
        ema,
        params,
    )
