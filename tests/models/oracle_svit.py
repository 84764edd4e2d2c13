"""The published sViT once more, in PyTorch, under the published names: written for the tests from
the description of the paper and the names and shapes of its parameters."""

import math

import torch
from torch import nn


class Locality(nn.Module):
    def __init__(self, dim, heads, head_dim):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.tensor(math.log(head_dim**-0.5)))
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim), nn.Dropout(0.0))

    def forward(self, x):
        split = [part.unflatten(-1, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, -1)]
        logits = torch.einsum("bihd,bjhd->bhij", *split[:2]) * self.temperature.exp()
        itself = torch.eye(x.shape[1], dtype=torch.bool)
        weights = logits.masked_fill(itself, -torch.inf).softmax(-1)
        return self.to_out(torch.einsum("bhij,bjhd->bihd", weights, split[2]).flatten(2))


class Feed(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        drop = nn.Dropout(0.0)
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), drop, nn.Linear(hidden, dim))

    def forward(self, x):
        return self.net(x)


class Normed(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x):
        return self.fn(self.norm(x))


class Layers(nn.Module):
    def __init__(self, dim, depth, heads, head_dim, mlp):
        super().__init__()
        pairs = [(Locality(dim, heads, head_dim), Feed(dim, mlp)) for _ in range(depth)]
        pairs = [nn.ModuleList([Normed(dim, part) for part in pair]) for pair in pairs]
        self.layers = nn.ModuleList(pairs)

    def forward(self, x):
        for look, think in self.layers:
            x = x + look(x)
            x = x + think(x)
        return x


class Embedding(nn.Module):
    def __init__(self, values, dim):
        super().__init__()
        parts = [nn.Identity(), nn.LayerNorm(values), nn.Linear(values, dim)]
        self.to_patch_tokens = nn.Sequential(*parts)

    def forward(self, patches):
        return self.to_patch_tokens(patches)


class SViT(nn.Module):
    """(b, k, 3, h, w) to (b, out)."""

    def __init__(self, count, out, side, dim=256, depth=6, heads=12, head_dim=64, mlp=256):
        super().__init__()
        self.to_patch_embedding = Embedding(64 * 3 * count, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, (side // 8) ** 2 + 2, dim))
        self.to_time_embedding = nn.Linear(dim, dim)
        self.transformer = Layers(dim, depth, heads, head_dim, mlp)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, out))

    def forward(self, x):
        b, k, colors, h, w = x.shape
        channels = torch.stack([x[:, n, c] for c in range(colors) for n in range(k)], 1)
        # (b, channels, rows, columns, 8, 8), then the pixels of a patch row by row.
        patches = channels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1)
        tokens = self.to_patch_embedding(patches.flatten(3).flatten(1, 2))
        front = [self.cls_token.expand(b, -1, -1), torch.zeros(b, 1, tokens.shape[2])]
        tokens = torch.cat([*front, tokens], 1) + self.pos_embedding
        return self.mlp_head(self.transformer(tokens).mean(1))
