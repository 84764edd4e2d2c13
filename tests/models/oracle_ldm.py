"""LDM's UNet once more, in PyTorch: written for the tests, with the published names and nothing
else in mind.

It keeps tensors as (b, c, h, w), builds its attention out of matrix products and knows nothing of
our layers, so that the same mistake is unlikely twice. `style` puts the style block where STEDM's
release has it: middle_block.1.block.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def groups(channels: int) -> int:
    """32 as published; fewer for narrow networks, as in stedm_jax."""
    best = 1
    for number in range(1, 33):
        if channels % number == 0 and (number == 1 or channels // number >= 4):
            best = number
    return best


def embed_time(t, dim):
    rates = torch.exp(torch.arange(dim // 2) * (-math.log(10_000) / (dim // 2)))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Res(nn.Module):
    def __init__(self, cin, cout, emb):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups(cin), cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, cout))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups(cout), cout),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(cout, cout, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x, emb):
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attend(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(groups(channels), channels)
        self.qkv, self.proj_out = (
            nn.Conv1d(channels, 3 * channels, 1),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).flatten(2)).reshape(b, self.heads, 3, c // self.heads, h * w)
        q, k, v = qkv.unbind(2)
        weights = (q.transpose(-1, -2) @ k / math.sqrt(c // self.heads)).softmax(-1)
        out = (weights @ v.transpose(-1, -2)).transpose(-1, -2).reshape(b, c, h * w)
        return x + self.proj_out(out).reshape(b, c, h, w)


class Cross(nn.Module):
    def __init__(self, dim, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context, dim, bias=False)
        self.to_v = nn.Linear(context, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x, y, present=None):
        def split(z):
            return z.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.to_q(x)), split(self.to_k(y)), split(self.to_v(y))
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if present is not None:
            logits = logits.masked_fill(~present[:, None, None, :], -torch.inf)
        return self.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Gate(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Linear(dim, 8 * dim)

    def forward(self, x):
        value, gate = self.proj(x).tensor_split(2, dim=-1)
        return value * F.gelu(gate)


class Block(nn.Module):
    def __init__(self, dim, context, heads):
        super().__init__()
        self.attn1, self.attn2 = Cross(dim, dim, heads), Cross(dim, context, heads)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(Gate(dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x, context, present):
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context, present)
        return x + self.ff.net(self.norm3(x))


class Spatial(nn.Module):
    def __init__(self, channels, heads, context):
        super().__init__()
        self.norm = nn.GroupNorm(groups(channels), channels, eps=1e-6)
        self.proj_in, self.proj_out = (
            nn.Conv2d(channels, channels, 1),
            nn.Conv2d(channels, channels, 1),
        )
        self.transformer_blocks = nn.ModuleList([Block(channels, context, heads)])

    def forward(self, x, context, present=None):
        y = self.proj_in(self.norm(x))
        y = self.transformer_blocks[0](y.flatten(2).transpose(1, 2), context, present)
        return x + self.proj_out(y.transpose(1, 2).reshape(x.shape))


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """`context` 0: plain attention; `style` 0: no style block. A context is (tokens, which are
    present or None)."""

    def __init__(
        self, cin, cout, base, multipliers, res_blocks, heads, attention_at=(), context=0, style=0
    ):
        super().__init__()
        self.base, emb = base, 4 * base

        def attend(c):
            return Spatial(c, heads, context) if context else Attend(c, heads)

        def level(a, b, factor):
            return nn.ModuleList([Res(a, b, emb)] + [attend(b)] * (factor in attention_at))

        self.time_embed = nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(cin, base, 3, padding=1)])])
        widths, c = [base], base
        for depth, multiplier in enumerate(multipliers):
            for _ in range(res_blocks):
                self.input_blocks.append(level(c, base * multiplier, 2**depth))
                c = base * multiplier
                widths.append(c)
            if depth + 1 < len(multipliers):
                self.input_blocks.append(nn.ModuleList([Down(c)]))
                widths.append(c)
        styled = [nn.ModuleDict({"block": Res(c, c, style)})] if style else []
        self.middle_block = nn.ModuleList([Res(c, c, emb), *styled, attend(c), Res(c, c, emb)])
        self.output_blocks = nn.ModuleList()
        for depth in reversed(range(len(multipliers))):
            for number in range(res_blocks + 1):
                step = level(c + widths.pop(), base * multipliers[depth], 2**depth)
                c = base * multipliers[depth]
                if depth and number == res_blocks:
                    step.append(Up(c))
                self.output_blocks.append(step)
        self.out = nn.Sequential(
            nn.GroupNorm(groups(c), c), nn.SiLU(), nn.Conv2d(c, cout, 3, padding=1)
        )

    def forward(self, x, t, style=None, context=None):
        emb, skips = self.time_embed(embed_time(t, self.base)), []

        def run(step, x):
            for block in step:
                if isinstance(block, Res):
                    x = block(x, emb)
                elif isinstance(block, nn.ModuleDict):
                    x = block["block"](x, style)
                elif isinstance(block, Spatial):
                    x = block(x, *context)
                else:
                    x = block(x)
            return x

        for step in self.input_blocks:
            x = run(step, x)
            skips.append(x)
        x = run(self.middle_block, x)
        for step in self.output_blocks:
            x = run(step, torch.cat([x, skips.pop()], dim=1))
        return self.out(x)
