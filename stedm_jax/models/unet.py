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
           style 512: 234,635,139 parameters, of which the style block has 19.4 M
    LID    in 3, out 3, base 192, multipliers (1, 2, 3, 5), 1 head, transformers at 2, 4, 8,
           context 512: 400,920,579 parameters

For those who read features out of it: a tap is called after the block whose output it is, as
`input_blocks/3`, `middle_block`, `output_blocks/5`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
    SpatialTransformer,
    Tokens,
    Upsample,
    timestep_embedding,
)
from stedm_jax.models.functional import Functional
from stedm_jax.models.layers import GroupNorm, Maker, Slots, zeros
from stedm_jax.settings.diffusion import Unet as UnetSettings


class UNet(nnx.Module):
    """eps, x0 or v from a noisy latent, a time and a style or context.

    Args:
        base, multipliers, res_blocks: channels are `base * multiplier` at each level.
        attention_at: down-sampling factors (1, 2, 4, ...) with attention beside the middle's.
        attention: "plain" or "transformer".
        context_dim: length of a context token, 0 for none; only with "transformer".
        style_dim: length of the style vector or of a style token, 0 for none.
        style_path: as the module's docstring says.
        remat: recompute each block in the backward pass, for memory.
    """

    def __init__(
        self,
        make: Maker,
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
        remat: bool = False,
    ):
        paths = (style_path,) if style_dim else ()
        self.cross = "cross" in paths
        context_dim = style_dim if self.cross else context_dim
        self.base, self.style_dim, self.context_dim = base, style_dim, context_dim
        self.dtype, self.remat = make.dtype, remat
        emb = 4 * base
        block_kw = {"rate": dropout, "style": style_dim if "adagn" in paths else 0}

        def attend(channels: int) -> nnx.Module:
            if attention == "plain" and not self.cross:
                return AttentionBlock(make, channels, heads)
            return SpatialTransformer(make, channels, heads, context_dim)

        def level(cin: int, cout: int, factor: int) -> Slots:
            blocks: list[nnx.Module] = [ResBlock(make, cin, cout, emb, **block_kw)]
            return Slots([*blocks, attend(cout)] if factor in attention_at else blocks)

        self.time_embed = Slots({0: make.linear(base, emb), 2: make.linear(emb, emb)})
        self.input_blocks, skips = _input_blocks(
            make, in_channels, base, multipliers, res_blocks, level
        )
        channels = skips[-1]
        first, between = ResBlock(make, channels, channels, emb, **block_kw), attend(channels)
        last = ResBlock(make, channels, channels, emb, **block_kw)
        self.middle_block = Slots([first, between, last])
        block = embed = None
        if {"middle", "both"} & {*paths}:
            block = ResBlock(make, channels, channels, style_dim, rate=dropout)
        if {"all", "both"} & {*paths}:
            embed = make.linear(style_dim, emb)
        self.style_block, self.style_embed = block, embed

        self.output_blocks = _output_blocks(make, base, multipliers, res_blocks, level, skips)
        channels = base * multipliers[0]
        out = make.conv(channels, out_channels, 3, init=zeros)
        self.out = Slots({0: GroupNorm(channels), 2: out})

    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        t: Num[Array, " b"],
        style: Float[Array, "b d"] | Tokens | None = None,
        key: jax.Array | None = None,
        context: Float[Array, "b n e"] | Tokens | None = None,
    ) -> Float[Array, "b h w cout"]:
        """The prediction.

        Height and width must be divisible by 2^(levels - 1).

        Args:
            style: a vector, or Tokens for "cross"; None stands for the zero vector.
            key: switches dropout on (training).
            context: tokens for the transformers, all or some of them present; None stands for one
              zero vector.
        """
        h = x
        for _, h in self._run(x, t, style, key, context):  # noqa: B007
            pass
        return self.out[2](nnx.silu(self.out[0](h))).astype(jnp.float32)

    def features(
        self,
        x: Float[Array, "b h w cin"],
        t: Num[Array, " b"],
        style: Float[Array, "b d"] | Tokens | None = None,
        context: Float[Array, "b n e"] | Tokens | None = None,
        *,
        taps: Sequence[str],
    ) -> dict[str, Array]:
        """{tap: features in the compute dtype}; nothing after the last tap is run. Other arguments
        as those of the call."""
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
        drops, skips, h = itertools.count(), [], x.astype(self.dtype)

        def run(block: Any, h: Array, emb: Array) -> Array:
            call = jax.checkpoint(block) if self.remat else block
            if isinstance(block, ResBlock):
                number = next(drops)  # so that each block has its own dropout
                drop = None if key is None else jax.random.fold_in(key, number)
                return call(h, emb, drop, vector)
            return call(h, tokens) if isinstance(block, SpatialTransformer) else call(h)

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
        assert style is None or isinstance(style, Tokens) == self.cross
        tokens = style if self.cross else context
        if tokens is not None and not isinstance(tokens, Tokens):
            tokens = Tokens(tokens, jnp.ones(tokens.shape[:2], bool))
        if not self.style_dim or self.cross:
            return None, tokens
        if not isinstance(style, Array):
            return jnp.zeros((batch, self.style_dim), self.dtype), tokens
        return style.astype(self.dtype), tokens


def _input_blocks(
    make: Maker,
    cin: int,
    base: int,
    multipliers: Sequence[int],
    res_blocks: int,
    level: Callable[[int, int, int], Slots],
) -> tuple[Slots, list[int]]:
    """The blocks on the way down, and the channels of the output of each."""
    blocks, channels = [Slots([make.conv(cin, base, 3)])], [base]
    for depth, multiplier in enumerate(multipliers):
        for _ in range(res_blocks):
            blocks.append(level(channels[-1], base * multiplier, 2**depth))
            channels.append(base * multiplier)
        if depth < len(multipliers) - 1:
            blocks.append(Slots([Downsample(make, channels[-1])]))
            channels.append(channels[-1])
    return Slots(blocks), channels


def _output_blocks(
    make: Maker,
    base: int,
    multipliers: Sequence[int],
    res_blocks: int,
    level: Callable[[int, int, int], Slots],
    skips: list[int],
) -> Slots:
    """The blocks on the way up; each also reads the output of a block on the way down."""
    blocks, channels = [], skips[-1]
    for depth, multiplier in reversed(list(enumerate(multipliers))):
        for number in range(res_blocks + 1):
            step = level(channels + skips.pop(), base * multiplier, 2**depth)
            channels = base * multiplier
            if depth > 0 and number == res_blocks:
                step.append(Upsample(make, channels))
            blocks.append(step)
    return Slots(blocks)


def build_unet(
    unet: UnetSettings, *, in_channels: int, out_channels: int, style_dim: int, dtype: DTypeLike
) -> Functional:
    """The network that config.diffusion.unet or config.guided.unet describes."""
    shape = {"in_channels": in_channels, "out_channels": out_channels, "style_dim": style_dim}
    return Functional(partial(UNet, **shape, **vars(unet)), dtype)


def tap_channels(base: int, multipliers: Sequence[int], res_blocks: int) -> dict[str, int]:
    """Tap -> channels, in the order in which the blocks of such a UNet run."""
    channels = [base]
    for depth, multiplier in enumerate(multipliers):
        changes = depth < len(multipliers) - 1
        channels += [base * multiplier] * (res_blocks + changes)
    out = {f"input_blocks/{number}": each for number, each in enumerate(channels)}
    out["middle_block"] = channels[-1]
    back = [base * each for each in reversed(multipliers) for _ in range(res_blocks + 1)]
    return out | {f"output_blocks/{number}": each for number, each in enumerate(back)}
