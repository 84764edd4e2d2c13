"""Our variant of sViT once more, in PyTorch: written for the tests, with our names."""

import math

import torch
import torch.nn as nn


class Look(nn.Module):
    def __init__(self, dim, heads, head_dim):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(dim)
        self.temperature = nn.Parameter(torch.tensor(math.log(head_dim**-0.5)))
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.to_qkv(self.norm(x)).chunk(3, -1)
        )
        logits = (q @ k.transpose(-1, -2)) * torch.exp(self.temperature)
        logits.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
        return self.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Think(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.norm, self.fc1, self.fc2 = (
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.Linear(hidden, dim),
        )

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


class SViTAnySize(nn.Module):
    """(b, k, 3, h, w) to (b, out)."""

    def __init__(self, count, out, dim=256, depth=6, heads=12, head_dim=64, mlp=256):
        super().__init__()
        self.patch = nn.Conv2d(3 * count, dim, 8, stride=8)
        self.attn = nn.ModuleList([Look(dim, heads, head_dim) for _ in range(depth)])
        self.mlp = nn.ModuleList([Think(dim, mlp) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, out)

    def forward(self, x):
        y = self.patch(x.flatten(1, 2))
        dim, h, w = y.shape[1:]
        rates = 10_000.0 ** (-torch.arange(dim // 4) / (dim // 4))
        for part, (size, axis) in enumerate([(h, 0), (w, 1)]):
            angles = torch.arange(size)[None] * rates[:, None]
            waves = torch.cat([angles.sin(), angles.cos()])
            y[:, part * dim // 2 : (part + 1) * dim // 2] += (
                waves[:, :, None] if axis == 0 else waves[:, None]
            )
        y = y.flatten(2).transpose(1, 2)
        for look, think in zip(self.attn, self.mlp, strict=True):
            y = y + look(y)
            y = y + think(y)
        return self.head(self.norm(y.mean(1)))
