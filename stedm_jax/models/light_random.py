"""A random generator that compiles in no time, for drawing initial parameters.

A network has hundreds of small random arrays. With JAX's own generator the program that draws them
takes XLA longer to compile on a CPU than the first training step. Here the bits of element i are a
hash of (key, i):

    h(x) = fmix32(x), the finaliser of MurmurHash3                                  (1)
    bits_i = h(h(i * 0x9E3779B9 + k_0) ^ k_1)                                       (2)

which is plenty for initial parameters and nothing else should use it. Values depend on the key and
the position only, so they are the same however an array is cut over devices.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random as extend_random
from jaxtyping import Array, UInt32


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
