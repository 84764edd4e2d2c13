"""sViT as published: a small vision transformer over all style images at once (STEDM, section 3).

The images are stacked on the channel axis and cut into patches of 8x8 pixels, which are normalized
and projected. A class token and a token of zeros (the place of a time, which a style does not have)
stand in front; learned positions are added. A transformer of locality self-attention reads them:
its temperature is learned and a token does not see itself (Lee et al. 2021, "Vision Transformer for
Small-Size Datasets"). Mean over all tokens, then a linear head.

Modules have the names of the published parameters, so no table is needed to convert them.
svit_any_size.py is our own variant.
"""

from typing import Any

import einops
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stedm_jax.models.layers import LayerNorm, Maker, Slots, attention, resize, trunc_normal

EXTRA = 2
"""Tokens in front of the patches: the class token and that of zeros."""


def new_temperature(head_dim: int) -> nnx.Param:
    """The logarithm of what queries are multiplied with, as it is before training."""
    return nnx.Param(jnp.log(jnp.asarray(head_dim**-0.5, jnp.float32)))


def look_at_others(
    qkv: Float[Array, "b n _qkv"], heads: int, temperature: Float[Array, ""]
) -> Float[Array, "b n hd"]:
    """Self-attention in which no token sees itself, before its last projection."""
    b, n, _ = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, heads, -1), 2, 0)
    others = ~jnp.eye(n, dtype=bool)[None, None]
    q = q * jnp.exp(temperature).astype(q.dtype)
    return attention(q, k, v, mask=others, scale=1.0).reshape(b, n, -1)


class LocalityAttention(nnx.Module):
    """Self-attention with a learned temperature in which no token sees itself."""

    def __init__(self, make: Maker, dim: int, heads: int, head_dim: int):
        self.heads, self.temperature = heads, new_temperature(head_dim)
        self.to_qkv = make.linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = Slots([make.linear(heads * head_dim, dim)])

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.to_out[0](look_at_others(self.to_qkv(x), self.heads, self.temperature[...]))


class FeedForward(nnx.Module):
    """linear -> GELU -> linear."""

    def __init__(self, make: Maker, dim: int, hidden: int):
        self.net = Slots({0: make.linear(dim, hidden), 3: make.linear(hidden, dim)})

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.net[3](nnx.gelu(self.net[0](x), approximate=False))


class PreNorm(nnx.Module):
    """norm -> fn."""

    def __init__(self, dim: int, fn: Any):
        self.norm, self.fn = LayerNorm(dim), fn

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fn(self.norm(x))


class Transformer(nnx.Module):
    """Attention and feed-forward in turn, each added to its input."""

    def __init__(self, make: Maker, dim: int, depth: int, heads: int, head_dim: int, mlp: int):
        def layer() -> Slots:
            look = PreNorm(dim, LocalityAttention(make, dim, heads, head_dim))
            return Slots([look, PreNorm(dim, FeedForward(make, dim, mlp))])

        self.layers = Slots([layer() for _ in range(depth)])

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        for layer in self.layers:
            for part in layer:
                x = x + part(x)
        return x


class PatchEmbedding(nnx.Module):
    """Patches of `pixels` values to tokens: norm -> linear."""

    def __init__(self, make: Maker, pixels: int, dim: int):
        self.to_patch_tokens = Slots({1: LayerNorm(pixels), 2: make.linear(pixels, dim)})

    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        return self.to_patch_tokens[2](self.to_patch_tokens[1](patches))


class SViT(nnx.Module):
    """Exactly `count` images of one size, absent ones as zeros, to one style vector of `out`
    values.

    Args:
        side: of the square images, in pixels, that positions are learned for; those of images of
            another size are interpolated between these.
    """

    def __init__(
        self,
        make: Maker,
        out: int,
        count: int,
        *,
        side: int,
        dim: int = 256,
        depth: int = 6,
        heads: int = 12,
        head_dim: int = 64,
        mlp: int = 256,
        patch: int = 8,
    ):
        self.dtype, self.patch, self.grid = make.dtype, patch, side // patch
        tokens = EXTRA + self.grid**2
        self.to_patch_embedding = PatchEmbedding(make, 3 * count * patch**2, dim)
        self.cls_token = nnx.Param(trunc_normal(make.key(), (1, 1, dim), jnp.float32))
        self.pos_embedding = nnx.Param(trunc_normal(make.key(), (1, tokens, dim), jnp.float32))
        # Nothing reads it; published files have it, and keep it when they are written again.
        self.to_time_embedding = make.linear(dim, dim)
        self.transformer = Transformer(make, dim, depth, heads, head_dim, mlp)
        self.mlp_head = Slots([LayerNorm(dim), make.linear(dim, out)])

    def __call__(
        self, images: Float[Array, "b k h w 3"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        known = jnp.where(present[:, :, None, None, None], images, 0).astype(self.dtype)
        b, _, height, width, _ = known.shape
        patch = {"p": self.patch, "q": self.patch}
        # Within a patch the pixels come row by row, of each first red in all images.
        patches = einops.rearrange(known, "b k (h p) (w q) c -> b (h w) (p q c k)", **patch)
        x = self.to_patch_embedding(patches)
        first = jnp.broadcast_to(self.cls_token[...].astype(x.dtype), (b, 1, x.shape[2]))
        x = jnp.concatenate([first, jnp.zeros_like(first), x], axis=1)
        x = x + self._positions(height // self.patch, width // self.patch).astype(x.dtype)
        x = self.transformer(x).mean(1)
        return self.mlp_head[1](self.mlp_head[0](x)).astype(jnp.float32)

    def _positions(self, height: int, width: int) -> Float[Array, "1 n d"]:
        """Those of the tokens of images of so many patches."""
        extra, patches = jnp.split(self.pos_embedding[...], [EXTRA], axis=1)
        grid = resize(patches.reshape(1, self.grid, self.grid, -1), height, width)
        return jnp.concatenate([extra, grid.reshape(1, height * width, -1)], axis=1)
