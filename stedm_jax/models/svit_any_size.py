"""A variant of svit.py, ours, that takes images of any size.

Positions are fixed sines. A patch is not normalized before its projection, which would take away
its color, and color is style here. There is no class token and no token of time, which the mean
would only dilute.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stedm_jax.models.layers import LayerNorm, Maker, Slots
from stedm_jax.models.svit import look_at_others, new_temperature


def sine_positions(h: int, w: int, dim: int) -> Float[Array, "hw d"]:
    """Fixed two-dimensional positions: a quarter of `dim` for each of sin, cos of x, y."""
    rates = 10_000.0 ** (-jnp.arange(dim // 4, dtype=jnp.float32) / max(dim // 4, 1))
    parts = []
    for size, axis in ((h, 0), (w, 1)):
        angles = jnp.arange(size, dtype=jnp.float32)[:, None] * rates[None]
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        waves = waves[:, None] if axis == 0 else waves[None]
        parts.append(jnp.broadcast_to(waves, (h, w, waves.shape[-1])))
    flat = jnp.concatenate(parts, axis=-1).reshape(h * w, -1)
    return jnp.pad(flat, ((0, 0), (0, dim - flat.shape[-1])))


class Look(nnx.Module):
    """norm -> self-attention with a learned temperature in which no token sees itself."""

    def __init__(self, make: Maker, dim: int, heads: int, head_dim: int):
        self.heads, self.temperature = heads, new_temperature(head_dim)
        self.norm = LayerNorm(dim)
        self.to_qkv = make.linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = make.linear(heads * head_dim, dim)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        qkv = self.to_qkv(self.norm(x))
        return self.to_out(look_at_others(qkv, self.heads, self.temperature[...]))


class Think(nnx.Module):
    """norm -> linear -> GELU -> linear."""

    def __init__(self, make: Maker, dim: int, hidden: int):
        self.norm = LayerNorm(dim)
        self.fc1, self.fc2 = make.linear(dim, hidden), make.linear(hidden, dim)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(nnx.gelu(self.fc1(self.norm(x)), approximate=False))


class SViTAnySize(nnx.Module):
    """Exactly `count` images of one size, absent ones as zeros, to one style vector of `out`
    values."""

    def __init__(
        self,
        make: Maker,
        out: int,
        count: int,
        *,
        dim: int = 256,
        depth: int = 6,
        heads: int = 12,
        head_dim: int = 64,
        mlp: int = 256,
        patch: int = 8,
    ):
        self.dtype = make.dtype
        self.patch = make.conv(3 * count, dim, patch, stride=patch, padding="VALID")
        self.attn = Slots([Look(make, dim, heads, head_dim) for _ in range(depth)])
        self.mlp = Slots([Think(make, dim, mlp) for _ in range(depth)])
        self.norm = LayerNorm(dim)
        self.head = make.linear(dim, out)

    def __call__(
        self, images: Float[Array, "b k h w 3"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        known = jnp.where(present[:, :, None, None, None], images, 0).astype(self.dtype)
        b, k, h, w, _ = known.shape
        x = self.patch(known.transpose(0, 2, 3, 1, 4).reshape(b, h, w, 3 * k))
        positions = sine_positions(x.shape[1], x.shape[2], x.shape[3]).astype(self.dtype)
        x = x.reshape(b, -1, x.shape[3]) + positions[None]
        for attn, mlp in zip(self.attn, self.mlp, strict=True):
            x = x + attn(x)
            x = x + mlp(x)
        return self.head(self.norm(x.mean(1))).astype(jnp.float32)
