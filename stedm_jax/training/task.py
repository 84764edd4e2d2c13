"""What the loop asks of a thing to be learned.

Parameters are a pure nested dict of arrays. `frozen` is a tree of parameters that are never trained
(an autoencoder under a denoiser, say): an argument of the compiled functions, so that it is not
baked into them.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

Params = dict[str, Any]
Batch = dict[str, jax.Array]
STATE = "state"


@runtime_checkable
class Task(Protocol):
    """A trained thing. Every method but `summarize` is compiled by the loop: pure, of fixed shapes.

    A task of several networks that work against each other also has a method `groups(params)`:
    labels as `optim.make_optimizer` takes them, so that each is clipped for its own gradient only.
    `optional` names those of its parameters, at the top, that weights to start from may lack as a
    whole, or hold though the task has none.
    """

    name: str

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 parameters."""
        ...

    def loss(
        self, params: Params, frozen: Any, batch: Batch, key: jax.Array, step: Int32[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The float32 loss, a mean over the global batch, and scalars to log; `step` counts the
        updates made.

        What stands under the name STATE is not logged: a nested dict of parameters that the update
        does not change but replaces (running statistics); their gradient has to be zero.
        """
        ...

    def eval_step(
        self, params: Params, frozen: Any, batch: Batch, key: jax.Array
    ) -> dict[str, Array]:
        """Sums over the batch, of any shape. `weight` (b,) is 0 for padding, which must count
        nothing."""
        ...

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Scores from the sums over all batches (float64 or int64, on the host)."""
        ...

    def visualize(
        self, params: Params, frozen: Any, batch: Batch, key: jax.Array
    ) -> dict[str, UInt8[Array, "h w 3"] | Float[Array, ""]]:
        """Pictures by name, and numbers that say how good they are."""
        ...
