"""What a method of a synthesis set is, and where it is found.

A method is a file of this room with `prepare(context, name, orders, learned)`, where `name` is that
of the set, and a line in METHODS of settings/methods.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.processors import in_threads
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Order, Orders
from stedm_jax.settings.methods import METHODS

Make = Callable[[Sequence[Order]], UInt8[np.ndarray, "b h w c"]]
"""Images of some orders, each a pure function of its order."""


@dataclass(frozen=True)
class Prepared:
    """A method that is ready to make the images of a set.

    Attributes:
      make: images (b, h, w, 3) of some orders.
      provenance: what every tile notes about how it was made.
    """

    make: Make
    provenance: Mapping[str, str] = field(default_factory=dict)


def prepare(context: Context, name: str, orders: Orders, learned: Any) -> Prepared:
    """Prepares the method of a set.

    Args:
      context: of the run.
      name: of the set.
      orders: of the set.
      learned: what the run has learned (experiment/learned.py).
    """
    method = context.settings.synthesis.sets[name].method
    module = import_module(f"stedm_jax.methods.{METHODS[method].file}")
    return module.prepare(context, name, orders, learned)


def on_host(image: Callable[[Order], UInt8[np.ndarray, "h w c"]]) -> Make:
    """Makes images one by one, in parallel threads."""
    return lambda orders: np.stack(in_threads(image, orders))
