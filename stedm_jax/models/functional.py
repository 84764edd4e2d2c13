"""A network as two pure functions: `init(key) -> params` and `apply(params, ...) -> output`.

Networks are written as `flax.nnx` modules, but nothing outside this file sees one: jit, grad, EMA,
optax, orbax and sharding work on `params`, a nested dict with string keys and array leaves. The
modules hold no state and no random numbers, so that the two functions are all there is to know.

A network has hundreds of small random arrays. With JAX's own generator the program that draws them
takes XLA longer to compile on a CPU than the first training step. Initial parameters come from a
light generator instead, whose bits of element i are a hash of (key, i):

    h(x) = fmix32(x), the finalizer of MurmurHash3                                  (1)
    bits_i = h(h(i * 0x9E3779B9 + k_0) ^ k_1)                                       (2)

That is plenty for initial parameters, and nothing else should use it. Values depend on the key and
the position only, so they are the same however an array is cut over devices.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import random as extend_random
from jax.typing import DTypeLike
from jaxtyping import Array, UInt32

from stedm_jax.common.flop_counts import counted_as
from stedm_jax.models.layers import Maker

Params = dict[str, Any]


def _mix(x: UInt32[Array, "*n"]) -> UInt32[Array, "*n"]:
    """Equation 1."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))


def _hash(key: UInt32[Array, "2"], count: int) -> UInt32[Array, " n"]:
    """Equation 2 for i < count."""
    index = jax.lax.iota(jnp.uint32, count) * jnp.uint32(0x9E3779B9)
    return _mix(_mix(index + key[0]) ^ key[1])


def _seed(seed: Array) -> UInt32[Array, "2"]:
    low = jnp.asarray(seed).astype(jnp.uint32)
    return jnp.stack([_mix(low), _mix(low + jnp.uint32(1))])


def _bits(key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]) -> Array:
    if bit_width > 32:
        raise ValueError("the light generator gives up to 32 bits")
    bits = _hash(key, math.prod(shape)).reshape(shape)
    return bits.astype(jnp.dtype(f"uint{bit_width}"))


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*n 2"]:
    return _hash(_fold_in(key, jnp.uint32(0xFFFFFFFF)), 2 * math.prod(shape)).reshape(*shape, 2)


def _fold_in(key: UInt32[Array, "2"], data: Any) -> UInt32[Array, "2"]:
    data = jnp.asarray(data).astype(jnp.uint32)
    first = _mix(key[0] ^ _mix(data + jnp.uint32(0x9E3779B9)))
    return jnp.stack([first, _mix(key[1] + first)])


LIGHT = extend_random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="stedm_light",
    tag="lgt",
)


def light_key(key: jax.Array) -> jax.Array:
    """The same key for this generator; `key` is a typed key of JAX's default one, traced or not."""
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., -2:], impl=LIGHT)


class _Stream(nnx.RngStream):
    """Keys as those of nnx.RngStream, counted in Python: a traced count makes building a deep
    network quadratic."""

    drawn = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], jnp.uint32(self.drawn))
        self.drawn += 1
        return key


class Functional:
    """A network that is described once by `build` and then used through pure functions.

    Args:
        build: makes the module; called only under `jax.eval_shape` or inside `init`.
        dtype: of the computation; parameters and outputs are float32.
    """

    def __init__(self, build: Callable[[Maker], nnx.Module], dtype: DTypeLike = jnp.float32):
        self.build, self.dtype = build, dtype

    @cached_property
    def _split(self) -> tuple[Any, Any]:
        """(graph, abstract state); costs no memory for the parameters."""
        return nnx.split(nnx.eval_shape(lambda: self._module(jax.random.key(0))))

    def _module(self, key: jax.Array) -> nnx.Module:
        rngs = nnx.Rngs(key)
        rngs.default = _Stream(key, tag="default")
        return self.build(Maker(rngs, self.dtype))

    @property
    def abstract(self) -> Params:
        """The parameters as `jax.ShapeDtypeStruct` leaves, without allocating them."""
        return nnx.to_pure_dict(self._split[1])

    def init(self, key: jax.Array) -> Params:
        """New parameters; `key` is a typed PRNG key and may be traced, so that this can be
        jitted."""
        return nnx.to_pure_dict(nnx.state(self._module(light_key(key)), nnx.Param))

    def module(self, params: Params) -> Any:
        """The module with `params` in it, for a caller that needs several of its methods."""
        graph, abstract = self._split
        state = jax.tree.map(lambda leaf: leaf, abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)

    @contextmanager
    def opened(self, params: Params) -> Iterator[Any]:
        """As `module`, in a context: what is traced within counts as this network
        (common.flop_counts.flops_by_network)."""
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
