"""sViT: a small vision transformer over all style images at once (STEDM, section 3).

The images are stacked on the channel axis and cut into 8x8 patches; a transformer of locality
self-attention reads them: its temperature is learned and a patch does not see itself (Lee et al.
2021, "Vision Transformer for Small-Size Datasets"). Mean over patches, then a linear head.

Departures from STEDM's release: positions are fixed sines, so that the size of the images is free;
a patch is not normalized before its projection, which would take away its color, and color is
style here; there is no class token and no token of time, which the mean would only dilute.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stedm_jax.models.layers import LayerNorm, Maker, Slots, attention


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


class LocalityAttention(nnx.Module):
    """Self-attention with a learned temperature in which no token sees itself."""

    def __init__(self, make: Maker, dim: int, heads: int, head_dim: int):
        self.heads = heads
        self.temperature = nnx.Param(jnp.log(jnp.asarray(head_dim**-0.5, jnp.float32)))
        self.norm = LayerNorm(dim)
        self.to_qkv = make.linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = make.linear(heads * head_dim, dim)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        b, n, _ = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(b, n, 3, self.heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        q = q * jnp.exp(self.temperature[...]).astype(q.dtype)
        others = ~jnp.eye(n, dtype=bool)[None, None]
        return self.to_out(attention(q, k, v, mask=others, scale=1.0).reshape(b, n, -1))


class FeedForward(nnx.Module):
    """norm -> linear -> GELU -> linear."""

    def __init__(self, make: Maker, dim: int, hidden: int):
        self.norm = LayerNorm(dim)
        self.fc1, self.fc2 = make.linear(dim, hidden), make.linear(hidden, dim)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(nnx.gelu(self.fc1(self.norm(x)), approximate=False))


class SViT(nnx.Module):
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
        self.attn = Slots([LocalityAttention(make, dim, heads, head_dim) for _ in range(depth)])
        self.mlp = Slots([FeedForward(make, dim, mlp) for _ in range(depth)])
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
