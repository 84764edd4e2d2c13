"""The denoiser of `models/unet.py` in plain PyTorch, as one would write it there: the peer that the
bench runs against.

`torch_peer.py` imports it where torch is installed. Tensors are (b, c, h, w); names are those of
our parameters, so that the usual rules of `convert/torch_names.py` map the weights.
"""

import importlib
import math
from collections.abc import Sequence
from typing import Any

torch: Any = importlib.import_module("torch")
nn: Any = torch.nn
functional: Any = torch.nn.functional


def norm(channels: int) -> Any:
    """A group norm with the groups of ours."""
    most = min(32, max(channels // 4, 1))
    return nn.GroupNorm(max(g for g in range(1, most + 1) if channels % g == 0), channels)


class ResBlock(nn.Module):
    """Two convolutions around an embedding; a `style` scales and shifts the second norm."""

    def __init__(self, cin: int, cout: int, emb: int, style: int = 0):
        super().__init__()
        self.in_layers = nn.Sequential(norm(cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, cout))
        self.style_layers = nn.Sequential(nn.SiLU(), nn.Linear(style, 2 * cout)) if style else None
        self.out_layers = nn.Sequential(
            norm(cout), nn.SiLU(), nn.Identity(), nn.Conv2d(cout, cout, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Any, emb: Any, style: Any) -> Any:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        if self.style_layers is None:
            return self.skip_connection(x) + self.out_layers(h)
        scale, shift = self.style_layers(style)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[3](functional.silu(h))


class Attention(nn.Module):
    """Self-attention over all positions, fused by PyTorch."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, norm(channels)
        self.qkv, self.proj_out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Any, emb: Any, style: Any) -> Any:
        b, c, h, w = x.shape
        tokens = self.qkv(self.norm(x).flatten(2).transpose(1, 2))
        q, k, v = tokens.view(b, h * w, self.heads, -1).transpose(1, 2).chunk(3, dim=-1)
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.proj_out(out).transpose(1, 2).reshape(b, c, h, w)


class Conv(nn.Module):
    """A convolution under a name, after doubling the size or with stride 2."""

    def __init__(self, name: str, channels: int, stride: int):
        super().__init__()
        self.name, self.scale = name, 1 if stride > 1 else 2
        setattr(self, name, nn.Conv2d(channels, channels, 3, stride=stride, padding=1))

    def forward(self, x: Any, emb: Any, style: Any) -> Any:
        if self.scale > 1:
            x = functional.interpolate(x, scale_factor=self.scale, mode="nearest")
        return getattr(self, self.name)(x)


class First(nn.Conv2d):
    """The first convolution, called as the other blocks are."""

    def forward(self, x: Any, emb: Any, style: Any) -> Any:
        return super().forward(x)


class UNet(nn.Module):
    """Arguments as those of our UNet: plain attention, a style of any path but "cross", no
    dropout."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        base: int,
        multipliers: Sequence[int],
        res_blocks: int,
        attention_at: Sequence[int],
        heads: int,
        style_dim: int,
        style_path: str,
    ):
        super().__init__()
        self.base, emb = base, 4 * base
        scaled = style_dim if style_path == "adagn" else 0

        def level(cin: int, cout: int, factor: int) -> list[Any]:
            return [ResBlock(cin, cout, emb, scaled)] + [Attention(cout, heads)] * (
                factor in attention_at
            )

        self.time_embed = nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))
        steps, widths, c = [[First(in_channels, base, 3, padding=1)]], [base], base
        for depth, multiplier in enumerate(multipliers):
            for _ in range(res_blocks):
                steps.append(level(c, base * multiplier, 2**depth))
                c = base * multiplier
                widths.append(c)
            if depth + 1 < len(multipliers):
                steps.append([Conv("op", c, 2)])
                widths.append(c)
        self.input_blocks = _lists(steps)
        self.middle_block = nn.ModuleList(
            [ResBlock(c, c, emb, scaled), Attention(c, heads), ResBlock(c, c, emb, scaled)]
        )
        self.style_block = (
            ResBlock(c, c, style_dim) if style_dim and style_path in ("middle", "both") else None
        )
        self.style_embed = (
            nn.Linear(style_dim, emb) if style_dim and style_path in ("all", "both") else None
        )
        steps = []
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            for number in range(res_blocks + 1):
                step = level(c + widths.pop(), base * multiplier, 2**depth)
                c = base * multiplier
                steps.append(
                    [*step, Conv("conv", c, 1)] if depth and number == res_blocks else step
                )
        self.output_blocks = _lists(steps)
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, out_channels, 3, padding=1))
        rates = torch.exp(torch.arange(base // 2) * (-math.log(10_000) / (base // 2)))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, x: Any, t: Any, style: Any) -> Any:
        angles = t.float()[:, None] * self.rates
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        if self.style_embed is not None:
            emb = emb + self.style_embed(style)
        skips = []
        for step in self.input_blocks:
            for each in step:
                x = each(x, emb, style)
            skips.append(x)
        x = self.middle_block[0](x, emb, style)
        if self.style_block is not None:
            x = self.style_block(x, style, style)
        x = self.middle_block[2](self.middle_block[1](x, emb, style), emb, style)
        for step in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for each in step:
                x = each(x, emb, style)
        return self.out(x).float()


def _lists(steps: Sequence[Sequence[Any]]) -> Any:
    return nn.ModuleList([nn.ModuleList(step) for step in steps])
