"""A network as two pure functions: `init(key) -> params` and `apply(params, ...) -> output`.

Networks are written as `flax.nnx` modules, but nothing outside this file sees one: jit, grad, EMA,
optax, orbax and sharding work on `params`, a nested dict with string keys and array leaves. The
modules hold no state and no random numbers, so that the two functions are all there is to know.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stedm_jax.common.flop_counts import counted_as
from stedm_jax.models.light_random import light_key

Params = dict[str, Any]


class _Stream(nnx.RngStream):
    """Keys as those of nnx.RngStream, counted in Python: a traced count makes building a deep
    network quadratic."""

    drawn = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], jnp.uint32(self.drawn))
        self.drawn += 1
        return key


def _rngs(key: jax.Array) -> nnx.Rngs:
    rngs = nnx.Rngs(key)
    rngs.default = _Stream(key, tag="default")
    return rngs


class Functional:
    """A network that is described once by `build` and then used through pure functions.

    Args:
        build: makes the module; called only under `jax.eval_shape` or inside `init`.
    """

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module]):
        self.build = build

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        """(graph, abstract state); costs no memory for the parameters."""
        return nnx.split(nnx.eval_shape(lambda: self.build(_rngs(jax.random.key(0)))))

    @property
    def abstract(self) -> Params:
        """The parameters as `jax.ShapeDtypeStruct` leaves, without allocating them."""
        return nnx.to_pure_dict(self._split[1])

    def init(self, key: jax.Array) -> Params:
        """New parameters; `key` is a typed PRNG key and may be traced, so that this can be
        jitted."""
        return nnx.to_pure_dict(nnx.state(self.build(_rngs(light_key(key))), nnx.Param))

    def module(self, params: Params) -> Any:
        """The module with `params` in it, for a caller that needs several of its methods."""
        graph, abstract = self._split
        state = jax.tree.map(lambda leaf: leaf, abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)

    @contextmanager
    def opened(self, params: Params) -> Iterator[Any]:
        """As `module`, in a context: what is traced within counts as this network
        (products.flops_by_network)."""
        module = self.module(params)
        with counted_as(type(module).__name__):
            yield module

    def apply(self, params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """Calls the network, or its method of that name, with these parameters."""
        with self.opened(params) as module:
            return getattr(module, method)(*args, **kwargs)


def on_each_device(apply: Callable[..., Any], params: Any, *batch: Any) -> Any:
    """`apply(params, *batch)`, each device of the mesh that is set (jax.set_mesh) its own part of
    the batch.

    For functions with loops. Left to itself the compiler sums a gradient over the devices in every
    turn of a loop that runs over parts of a batch; so it is summed once, behind the loop.
    Everywhere else there is no difference: without a mesh, or with a batch that does not divide
      over it, this is a plain call.

    Args:
        params: the same on every device, or gathered there.
        batch: arrays whose first dimension is cut, as that of the result will be.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if (
        mesh.empty
        or mesh.size == 1
        or any(leaf.shape[0] % mesh.size for leaf in jax.tree.leaves(batch))
    ):
        return apply(params, *batch)
    cut = jax.sharding.PartitionSpec(mesh.axis_names)
    specs = (jax.sharding.PartitionSpec(), *[cut] * len(batch))
    # Without check_vma: with it, the sum would be placed at each use of a parameter, which is in
    # the loop again.
    return jax.shard_map(apply, in_specs=specs, out_specs=cut, check_vma=False)(params, *batch)


def param_count(params: Any) -> int:
    """Number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
