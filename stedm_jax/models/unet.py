"""The denoiser: LDM's UNet with a style or a context (Rombach et al., CVPR 2022).

STEDM's (Oettl et al., ECCV 2024, section 3) has the layout concatenated with the noisy latent by
the caller. The style enters by `style_path`:
    "middle"  one more ResBlock between the two of the middle, given the style vector where the
              others get the time embedding (the paper's way)
    "all"     a linear map of the style vector is added to the time embedding of every ResBlock
    "both"    the two above
    "adagn"   the style vector scales and shifts the second norm of every ResBlock, each by a linear
              layer of its own that is zero at the start (beyond the paper)
    "cross"   style tokens, one an image, are read by cross-attention wherever there is attention
              (beyond the paper); implies transformers

`attention` says what stands where there is attention: "plain", LDM's AttentionBlock, or
"transformer", which also reads a context. LID's UNet (Graikos et al., CVPR 2024) is of that kind. A
missing context is one zero vector. (LID trains with zeros in place of the *embedding*: its
unconditional context is what the projection makes of zeros, for the caller to give.)

Published sizes, 2 blocks a level:
    STEDM  in 6, out 3, base 128, multipliers (1, 4, 8), 8 heads, no attention outside the middle,
    style 512:
           234,635,139 parameters, of which the style block has 19.4 M
    LID    in 3, out 3, base 192, multipliers (1, 2, 3, 5), 1 head, transformers at 2, 4, 8, context
    512:
           400,920,579 parameters
"""

from collections.abc import Iterator, Sequence
from typing import Any

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
from stedm_jax.models.taps import check_taps, tap_names
from stedm_jax.models.transformer import SpatialTransformer, Tokens

STYLE_PATHS = ("middle", "all", "both", "adagn", "cross")
ATTENTIONS = ("plain", "transformer")


class UNet(nnx.Module):
    """eps, x0 or v from a noisy latent, a time and a style or context.

    Args:
        base, multipliers, res_blocks: channels are `base * multiplier` at each level.
        attention_at: down-sampling factors (1, 2, 4, ...) with attention beside the middle's.
        attention: one of ATTENTIONS.
        context_dim: length of a context token, 0 for none; only with "transformer".
        style_dim: length of the style vector or of a style token, 0 for none.
        style_path: one of STYLE_PATHS.
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
        attention: str = "plain",
        context_dim: int = 0,
        style_dim: int = 0,
        style_path: str = "middle",
        dropout: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        use_scale_shift_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        self.cross = style_dim > 0 and style_path == "cross"
        attention = "transformer" if self.cross else attention
        _check(style_path, attention, context_dim, style_dim if self.cross else 0)
        context_dim = style_dim if self.cross else context_dim
        self.base, self.style_dim, self.context_dim = base, style_dim, context_dim
        self.dtype, self.remat, self.tap_names = (
            dtype,
            remat,
            tap_names(len(multipliers), res_blocks),
        )
        emb, kw = 4 * base, {"rngs": rngs, "dtype": dtype}
        style_kw = {"rate": dropout, "scale_shift": use_scale_shift_norm, **kw}
        block_kw = {**style_kw, "style": style_dim if style_path == "adagn" else 0}

        def attend(channels: int) -> nnx.Module:
            if attention == "plain":
                return AttentionBlock(channels, heads, **kw)
            return SpatialTransformer(channels, heads, context_dim, **kw)

        def level(cin: int, cout: int, factor: int) -> Slots:
            blocks: list[nnx.Module] = [ResBlock(cin, cout, emb, **block_kw)]
            return Slots([*blocks, attend(cout)] if factor in attention_at else blocks)

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

        first = ResBlock(channels, channels, emb, **block_kw)
        self.middle_block = Slots(
            [first, attend(channels), ResBlock(channels, channels, emb, **block_kw)]
        )
        middle = style_dim > 0 and style_path in ("middle", "both")
        self.style_block = ResBlock(channels, channels, style_dim, **style_kw) if middle else None
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
        self.out = Slots(
            {0: GroupNorm(channels), 2: conv(channels, out_channels, 3, **kw, init=zeros)}
        )

    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        t: Num[Array, " b"],
        style: Float[Array, "b d"] | Tokens | None = None,
        key: jax.Array | None = None,
        context: Float[Array, "b n e"] | Tokens | None = None,
        taps: Sequence[str] = (),
    ) -> Float[Array, "b h w cout"] | tuple[Float[Array, "b h w cout"], dict[str, Array]]:
        """The prediction; with `taps` a pair of it and {tap: features in the compute dtype}.

        Height and width must be divisible by 2^(levels - 1).

        Args:
            style: a vector, or Tokens for "cross"; None stands for the zero vector.
            key: switches dropout on (training).
            context: tokens for the transformers, all or some of them present; None stands for one
              zero vector.
            taps: names of blocks, see `taps.tap_names`; features are taken after the block.

        Raises:
            UserError: a tap that is not there.
        """
        check_taps(taps, self.tap_names)
        found, h = {}, x
        for name, h in self._run(x, t, style, key, context):
            if name in taps:
                found[name] = h
        y = self.out[2](nnx.silu(self.out[0](h))).astype(jnp.float32)
        return (y, found) if taps else y

    def features(
        self,
        x: Float[Array, "b h w cin"],
        t: Num[Array, " b"],
        style: Float[Array, "b d"] | Tokens | None = None,
        context: Float[Array, "b n e"] | Tokens | None = None,
        *,
        taps: Sequence[str],
    ) -> dict[str, Array]:
        """{tap: features} alone; nothing after the last tap is run. Arguments as those of the
        call."""
        check_taps(taps, self.tap_names)
        found: dict[str, Array] = {}
        for name, h in self._run(x, t, style, None, context):
            if name in taps:
                found[name] = h
            if len(found) == len(set(taps)):
                break
        return found

    def _run(
        self,
        x: Array,
        t: Array,
        style: Array | Tokens | None,
        key: jax.Array | None,
        context: Array | Tokens | None,
    ) -> Iterator[tuple[str, Array]]:
        """(tap, features), block by block; lazily, so that a caller may stop."""
        vector, tokens = self._conditions(x.shape[0], style, context)
        emb = timestep_embedding(t, self.base).astype(self.dtype)
        emb = self.time_embed[2](nnx.silu(self.time_embed[0](emb)))
        if self.style_embed is not None and vector is not None:
            emb = emb + self.style_embed(vector)
        run, skips, h = _Runner(vector, tokens, key, self.remat), [], x.astype(self.dtype)
        for number, step in enumerate(self.input_blocks):
            for block in step:
                h = run(block, h, emb)
            skips.append(h)
            yield f"input_blocks/{number}", h
        h = run(self.middle_block[0], h, emb)
        if self.style_block is not None and vector is not None:
            h = run(self.style_block, h, vector)
        for block in (self.middle_block[1], self.middle_block[2]):
            h = run(block, h, emb)
        yield "middle_block", h
        for number, step in enumerate(self.output_blocks):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            for block in step:
                h = run(block, h, emb)
            yield f"output_blocks/{number}", h

    def _conditions(
        self, batch: int, style: Array | Tokens | None, context: Array | Tokens | None
    ) -> tuple[Array | None, Tokens | None]:
        """Style vector (zeros where there is none) and the tokens that the transformers read."""
        if style is not None and isinstance(style, Tokens) != self.cross:
            raise ValueError(
                "a style of Tokens belongs to style_path 'cross', a vector to the other ones"
            )
        if context is not None and (self.cross or not self.context_dim):
            raise ValueError("this network was made without a context (context_dim)")
        tokens = style if isinstance(style, Tokens) else context
        if tokens is not None and not isinstance(tokens, Tokens):
            tokens = Tokens(tokens, jnp.ones(tokens.shape[:2], bool))
        if not self.style_dim or isinstance(style, Tokens) or self.cross:
            return None, tokens
        vector = (
            jnp.zeros((batch, self.style_dim), self.dtype)
            if style is None
            else style.astype(self.dtype)
        )
        return vector, tokens


class _Runner:
    """Calls a block with what it reads; counts the blocks, so that each has its own dropout."""

    def __init__(
        self, style: Array | None, tokens: Tokens | None, key: jax.Array | None, remat: bool
    ):
        self.style, self.tokens, self.key, self.remat, self.count = style, tokens, key, remat, 0

    def __call__(self, block: Any, h: Array, emb: Array) -> Array:
        call = jax.checkpoint(block) if self.remat else block
        if isinstance(block, ResBlock):
            drop = None if self.key is None else jax.random.fold_in(self.key, self.count)
            self.count += 1
            return call(h, emb, drop, self.style)
        return call(h, self.tokens) if isinstance(block, SpatialTransformer) else call(h)


def _check(style_path: str, attention: str, context_dim: int, tokens: int) -> None:
    for name, value, valid in (
        ("style_path", style_path, STYLE_PATHS),
        ("attention", attention, ATTENTIONS),
    ):
        if value not in valid:
            raise ValueError(f"{name} {value!r} is not one of {valid}")
    if context_dim and attention == "plain":
        raise ValueError(
            "plain attention reads no context (context_dim); take attention 'transformer'"
        )
    if context_dim and tokens:
        raise ValueError(
            "with style_path 'cross' the style tokens are the context; leave context_dim at 0"
        )
