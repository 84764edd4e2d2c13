"""Random keys as pure functions of (seed, step).

`jax.random.split(key)[i]` equals `jax.random.fold_in(key, i)`, so the bare `key(seed)` is never
handed
out: its children are the steps 0, 1, 2, ..., and the other uses count down from the largest number.
"""

from typing import Any

import jax
import numpy as np

STREAMS = {"init": 0xFFFFFFFF, "eval": 0xFFFFFFFE, "visual": 0xFFFFFFFD}


def step_key(key: jax.Array, step: Any) -> jax.Array:
    """The key of training step `step` (an int or an integer scalar, traced or not); `key` is
    `jax.random.key(seed)`."""
    return jax.random.fold_in(key, step)


def stream_key(seed: int, name: str, index: int = 0) -> jax.Array:
    """The key of item `index` of a named stream ("init", "eval", "visual"), apart from all
    steps."""
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.key(seed), np.uint32(STREAMS[name])), index
    )
