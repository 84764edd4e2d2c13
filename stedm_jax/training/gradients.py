"""Loss and gradient of a batch: at once, or in micro-batches one after the other, which need the
memory of one.

(1)  L = 1/n sum_m L(batch_m),   batch_m = images m, m + n, m + 2n, ... of the global batch,
     key_m = fold_in(key, m)

Every n-th image goes into the same micro-batch: so each lies over all devices as the whole batch
did, no image moves, and which images it holds does not depend on the number of devices. Gradients,
loss and metrics are averaged in float32. Where a loss is no mean over images (batch statistics,
means over labeled pixels), (1) is not that of the whole batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stedm_jax.training.sharding import AXES
from stedm_jax.training.task import STATE, Batch

Loss = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, dict[str, Any]]]


class Gradients(NamedTuple):
    """The loss, the scalars to log, the parameters to be replaced (task.STATE) and the gradient."""

    loss: Any
    scalars: dict[str, Any]
    kept: Any
    grads: Any


def gradients(
    loss: Loss,
    params: Any,
    whole: Any,
    batch: Batch,
    key: jax.Array,
    count: int,
    mesh: Mesh,
    shardings: Any,
) -> Gradients:
    """Equation (1) with `count` micro-batches; to be called within a compiled program.

    Args:
      loss: (params, kept, batch, key) -> loss and extras. `kept` is what the micro-batch before
        left under STATE: running statistics go through the micro-batches one after the other.
      params: that the gradient is taken for.
      whole: all of them, to begin with for what stands under STATE.
      shardings: of the gradients.
    """
    each = jax.value_and_grad(loss, has_aux=True)

    def one(kept: Any, part: Batch, key: jax.Array) -> Gradients:
        (value, extra), grads = each(params, kept, part, key)
        scalars = dict(extra)
        return Gradients(value, scalars, scalars.pop(STATE, {}), grads)

    if count == 1:
        return one({}, batch, key)
    parts = micro_batches(batch, count, mesh)

    def turn(carry: Any, item: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        sums, kept = carry
        now = one(kept, item[0], jax.random.fold_in(key, item[1]))
        new = (now.loss, now.scalars, jax.lax.with_sharding_constraint(now.grads, shardings))
        kept = jax.tree.map(lambda old, new: new.astype(old.dtype), kept, now.kept)
        return (jax.tree.map(lambda total, x: total + x.astype(jnp.float32), sums, new), kept), None

    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(lambda part: loss(params, {}, part, key), first)
    scalars = {name: jnp.float32(0) for name in shapes[1] if name != STATE}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    sums = (jnp.float32(0), scalars, jax.lax.with_sharding_constraint(zeros, shardings))
    carry = (sums, _within(whole, shapes[1].get(STATE, {})))
    ((value, scalars, grads), kept), _ = jax.lax.scan(turn, carry, (parts, jnp.arange(count)))
    mean = lambda tree: jax.tree.map(lambda leaf: leaf / count, tree)  # noqa: E731
    like = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), mean(grads), params)
    return Gradients(value / count, mean(scalars), kept, like)


def micro_batches(batch: Batch, count: int, mesh: Mesh) -> Batch:
    """The batch as (count, b / count, ...), each part cut over all devices; nothing leaves its
    device."""

    def cut(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:])
        rows = jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec(AXES)))
        return jax.lax.with_sharding_constraint(
            rows.swapaxes(0, 1), NamedSharding(mesh, PartitionSpec(None, AXES))
        )

    return {name: cut(leaf) for name, leaf in batch.items()}


def _within(tree: Any, like: Any) -> Any:
    """The leaves of a nested dict at the places of another one."""
    return (
        {name: _within(tree[name], below) for name, below in like.items()}
        if isinstance(like, dict)
        else tree
    )
