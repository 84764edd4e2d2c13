"""The denoiser of STEDM: LDM's UNet with a style vector (Oettl et al., ECCV 2024, section 3).

The layout is concatenated with the noisy latent by the caller. The style enters in one of two ways,
or both (`style_path`):
    "middle"  one more ResBlock between the two of the middle, given the style vector where the
              others get the time embedding (the paper's way)
    "all"     a linear map of the style vector is added to the time embedding of every ResBlock

Published size: in 6, out 3, base 128, multipliers (1, 4, 8), 2 blocks, 8 heads, no attention
outside the middle, style 512: 234,635,139 parameters, of which the style block has 19.4 M.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from stedm_jax.models.blocks import (
    AttentionBlock,
    Downsample,
    ResBlock,
    Upsample,
    timestep_embedding,
    zeros,
)
from stedm_jax.models.layers import GroupNorm, Slots, conv, linear

STYLE_PATHS = ("middle", "all", "both")


class UNet(nnx.Module):
    """eps, x0 or v from a noisy latent, a time and a style.

    Args:
        base, multipliers, res_blocks: channels are `base * multiplier` at each level.
        attention_at: down-sampling factors (1, 2, 4, ...) with self-attention beside the middle's.
        style_dim: length of the style vector, 0 for none.
        dtype: compute dtype; parameters and the output are float32.
        remat: recompute each block in the backward pass, for memory.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        base: int,
        multipliers: Sequence[int],
        res_blocks: int = 2,
        attention_at: Sequence[int] = (),
        heads: int = 8,
        style_dim: int = 0,
        style_path: str = "middle",
        dropout: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        use_scale_shift_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        if style_path not in STYLE_PATHS:
            raise ValueError(f"style_path {style_path!r} is not one of {STYLE_PATHS}")
        self.base, self.style_dim, self.dtype, self.remat = base, style_dim, dtype, remat
        emb, kw = 4 * base, {"rngs": rngs, "dtype": dtype}
        block_kw = {**kw, "rate": dropout, "scale_shift": use_scale_shift_norm}

        def level(cin: int, cout: int, factor: int) -> Slots:
            blocks: list[nnx.Module] = [ResBlock(cin, cout, emb, **block_kw)]
            if factor in attention_at:
                blocks.append(AttentionBlock(cout, heads, **kw))
            return Slots(blocks)

        self.time_embed = Slots({0: linear(base, emb, **kw), 2: linear(emb, emb, **kw)})
        self.input_blocks = Slots([Slots([conv(in_channels, base, 3, **kw)])])
        channels, skips, last = base, [base], len(multipliers) - 1
        for depth, multiplier in enumerate(multipliers):
            for _ in range(res_blocks):
                self.input_blocks.append(level(channels, base * multiplier, 2**depth))
                channels = base * multiplier
                skips.append(channels)
            if depth < last:
                self.input_blocks.append(Slots([Downsample(channels, **kw)]))
                skips.append(channels)

        self.middle_block = Slots(
            [
                ResBlock(channels, channels, emb, **block_kw),
                AttentionBlock(channels, heads, **kw),
                ResBlock(channels, channels, emb, **block_kw),
            ]
        )
        middle = style_dim > 0 and style_path in ("middle", "both")
        self.style_block = ResBlock(channels, channels, style_dim, **block_kw) if middle else None
        everywhere = style_dim > 0 and style_path in ("all", "both")
        self.style_embed = linear(style_dim, emb, **kw) if everywhere else None

        self.output_blocks = Slots()
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(res_blocks + 1):
                step = level(channels + skips.pop(), base * multiplier, 2**depth)
                channels = base * multiplier
                if depth > 0 and i == res_blocks:
                    step.append(Upsample(channels, **kw))
                self.output_blocks.append(step)
        self.out = Slots({0: GroupNorm(channels), 2: conv(channels, out_channels, 3, **kw, init=zeros)})

    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        t: Num[Array, " b"],
        style: Float[Array, "b d"] | None = None,
        key: jax.Array | None = None,
    ) -> Float[Array, "b h w cout"]:
        """Height and width must be divisible by 2^(levels - 1).

        `style` None stands for the zero vector. `key` switches dropout on (training).
        """
        if self.style_dim and style is None:
            style = jnp.zeros((x.shape[0], self.style_dim), self.dtype)
        emb = timestep_embedding(t, self.base).astype(self.dtype)
        emb = self.time_embed[2](nnx.silu(self.time_embed[0](emb)))
        if self.style_embed is not None and style is not None:
            emb = emb + self.style_embed(style.astype(self.dtype))

        h, skips, counter = x.astype(self.dtype), [], iter(range(10_000))

        def run(block: nnx.Module, h: Array, emb: Array) -> Array:
            if isinstance(block, ResBlock):
                drop = None if key is None else jax.random.fold_in(key, next(counter))
                return jax.checkpoint(block)(h, emb, drop) if self.remat else block(h, emb, drop)
            return block(h)  # type: ignore[operator]

        for step in self.input_blocks:
            for block in step:
                h = run(block, h, emb)
            skips.append(h)
        h = run(self.middle_block[0], h, emb)
        if self.style_block is not None and style is not None:
            h = run(self.style_block, h, style.astype(self.dtype))
        h = run(self.middle_block[1], h, emb)
        h = run(self.middle_block[2], h, emb)
        for step in self.output_blocks:
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            for block in step:
                h = run(block, h, emb)
        return self.out[2](nnx.silu(self.out[0](h))).astype(jnp.float32)
