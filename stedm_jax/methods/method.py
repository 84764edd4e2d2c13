"""What a method of a synthesis set is, and where it is found.

A method is a file of this room with `prepare(context, name, orders, learned)`, where `name` is that
of the set, and a line in METHODS of settings/methods.py.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.processors import in_threads
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Order, Orders, StyleOrders
from stedm_jax.settings.methods import METHODS
from stedm_jax.training import peers
from stedm_jax.training.sharding import batch_sharding, own_rows, replicated, to_global

Make = Callable[[Sequence[Order]], UInt8[np.ndarray, "b h w c"]]
"""Images of some orders, each a pure function of its order."""


@dataclass(frozen=True)
class Prepared:
    """A method that is ready to make the images of a set.

    Attributes:
      make: images (b, h, w, 3) of some orders; of methods that make masks too, (b, h, w, 4).
      provenance: what every tile notes about how it was made.
    """

    make: Make
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def network_seconds(self) -> float:
        """How long its network has computed, compiling too; 0 of a method without one."""
        return self.make.seconds if isinstance(self.make, InBatches) else 0.0


def prepare(context: Context, name: str, orders: Orders | StyleOrders, learned: Any) -> Prepared:
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


class InBatches:
    """Makes images in batches of one size, each loaded by the host and divided by the devices.

    Args:
      context: of the run.
      size: of a batch.
      run: images of a batch.
      load: the arrays of some orders.

    Attributes:
      seconds: how long `run` has taken.
    """

    def __init__(
        self,
        context: Context,
        size: int,
        run: Callable[[Any], Any],
        load: Callable[[list[Order]], Any],
    ):
        self._mesh, self._size, self._run, self._load = context.mesh, size, run, load
        self._rows = own_rows(size, context.mesh)
        self.seconds = 0.0

    def __call__(self, wanted: Sequence[Order]) -> UInt8[np.ndarray, "b h w c"]:
        images = []
        for start in range(0, len(wanted), self._size):
            part = list(wanted[start : start + self._size])
            filled = part + part[:1] * (self._size - len(part))
            batch = to_global(self._load([filled[row] for row in self._rows]), self._mesh)
            began = time.perf_counter()
            images.append(np.asarray(self._run(batch))[: len(part)])
            self.seconds += time.perf_counter() - began
        return np.concatenate(images)


def on_devices(
    context: Context,
    size: int,
    images: Callable[[Any, Any], jax.Array],
    params: Any,
    load: Callable[[list[Order]], Any],
) -> InBatches:
    """As `InBatches`, of a function of parameters and a batch, which is compiled."""
    out = replicated(context.mesh) if peers.several() else None
    divided = batch_sharding(context.mesh)
    compiled = jax.jit(images, in_shardings=(None, divided), out_shardings=out)
    return InBatches(context, size, lambda batch: compiled(params, batch), load)
