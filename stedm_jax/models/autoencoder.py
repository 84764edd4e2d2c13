"""LDM's first stage: images to latents and back (Rombach et al., CVPR 2022; taming-transformers).

    "kl"  encode -> (mean, log variance) of a normal distribution for each latent value
          KL to N(0, 1) = 1/2 (mean^2 + var - 1 - log var)                                       (1)
    "vq"  encode -> the latent before quantization; decode replaces it by the nearest code first
          loss = |sg(z) - code|^2 + beta |z - sg(code)|^2, beta 0.25                             (2)
          LDM's released code has beta on the first term instead: `legacy_codebook`

Published sizes (128 channels, 2 blocks, attention in the middle only):
    VQ-f4  multipliers (1, 2, 4), 3 latent channels, 8192 codes: 55.3 M parameters
    KL-f4  the same without codes, KL-f8  (1, 2, 4, 4) and 4 latent channels: 83.7 M
Group normalization has eps 1e-6 here, and stride-2 convolutions pad (0, 1): on the far side only.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from stedm_jax.models.convolution import upsample_nearest
from stedm_jax.models.layers import GroupNorm, Maker, Slots, attention

EPS = 1e-6
BETA = 0.25
# Distances to codes are made for about this many (position, code) pairs at once on each device of
# the mesh that is set.
PAIRS = 1 << 27


class ResnetBlock(nnx.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x))))))."""

    def __init__(self, make: Maker, cin: int, cout: int):
        self.norm1, self.norm2 = GroupNorm(cin, eps=EPS), GroupNorm(cout, eps=EPS)
        self.conv1, self.conv2 = make.conv(cin, cout, 3), make.conv(cout, cout, 3)
        self.nin_shortcut = None if cin == cout else make.conv(cin, cout, 1)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        h = self.conv1(nnx.silu(self.norm1(x)))
        h = self.conv2(nnx.silu(self.norm2(h)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class AttnBlock(nnx.Module):
    """Self-attention with one head over all positions; LDM keeps the projections as 1x1
    convolutions."""

    def __init__(self, make: Maker, channels: int):
        self.norm = GroupNorm(channels, eps=EPS)
        self.q, self.k, self.v, self.proj_out = (make.linear(channels, channels) for _ in range(4))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, _, _, c = x.shape
        h = self.norm(x)
        q, k, v = (layer(h).reshape(b, -1, 1, c) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(attention(q, k, v).reshape(x.shape))


class Middle(nnx.Module):
    """ResnetBlock, attention if wanted, ResnetBlock."""

    def __init__(self, make: Maker, channels: int, attn: bool):
        self.block_1 = ResnetBlock(make, channels, channels)
        self.attn_1 = AttnBlock(make, channels) if attn else None
        self.block_2 = ResnetBlock(make, channels, channels)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = self.block_1(x)
        return self.block_2(x if self.attn_1 is None else self.attn_1(x))


class Resample(nnx.Module):
    """Half the size (stride 2, padded on the far side) or twice the size (repeat, convolve)."""

    def __init__(self, make: Maker, channels: int, up: bool):
        self.up = up
        place = {} if up else {"stride": 2, "padding": ((0, 1), (0, 1))}
        self.conv = make.conv(channels, channels, 3, **place)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(upsample_nearest(x) if self.up else x)


class Level(nnx.Module):
    """The blocks of one resolution and, unless it is the last one, the change of resolution."""

    def __init__(self, make: Maker, cin: int, cout: int, blocks: int, resample: str):
        inputs = [cin] + [cout] * (blocks - 1)
        self.block = Slots([ResnetBlock(make, each, cout) for each in inputs])
        self.downsample = Resample(make, cout, False) if resample == "down" else None
        self.upsample = Resample(make, cout, True) if resample == "up" else None

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        for block in self.block:
            x = block(x)
        resample = self.downsample or self.upsample
        return x if resample is None else resample(x)


class Encoder(nnx.Module):
    """Image to `cout` channels at 1 / 2^(levels - 1) of its size; `widths` are those of the levels,
    `blocks` their number of blocks."""

    def __init__(
        self,
        make: Maker,
        cout: int,
        base: int,
        widths: Sequence[int],
        blocks: int,
        attn: bool,
    ):
        self.conv_in, channels = make.conv(3, base, 3), base
        self.down = Slots()
        for depth, width in enumerate(widths):
            step = "down" if depth < len(widths) - 1 else ""
            self.down.append(Level(make, channels, width, blocks, step))
            channels = width
        self.mid = Middle(make, channels, attn)
        self.norm_out = GroupNorm(channels, eps=EPS)
        self.conv_out = make.conv(channels, cout, 3)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 cout"]:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(nnx.silu(self.norm_out(self.mid(h))))


class Decoder(nnx.Module):
    """Latent to image, with one block a level more than the encoder."""

    def __init__(
        self,
        make: Maker,
        cin: int,
        widths: Sequence[int],
        blocks: int,
        attn: bool,
    ):
        channels = widths[-1]
        self.conv_in = make.conv(cin, channels, 3)
        self.mid = Middle(make, channels, attn)
        levels = []
        for depth, width in reversed(list(enumerate(widths))):
            levels.append(Level(make, channels, width, blocks + 1, "up" if depth else ""))
            channels = width
        # Numbered by resolution, as in LDM: the first one applied is the last one listed.
        self.up = Slots(levels[::-1])
        self.norm_out = GroupNorm(channels, eps=EPS)
        self.conv_out = make.conv(channels, 3, 3)

    def features(self, z: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 c"]:
        """All but the last convolution."""
        h = self.mid(self.conv_in(z))
        for depth in reversed(range(len(self.up))):
            h = self.up[depth](h)
        return nnx.silu(self.norm_out(h))


class Codebook(nnx.Module):
    """The codes of a VQ autoencoder, with LDM's initial range of 1 / number of codes."""

    def __init__(self, make: Maker, codes: int, channels: int):
        def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -1.0 / codes, 1.0 / codes)

        self.embedding = nnx.Embed(codes, channels, embedding_init=init, rngs=make.rngs)

    def __call__(self, z: Float[Array, "*n c"]) -> Int[Array, "*n"]:
        """Index of the nearest code of each vector, found in full precision."""
        codes = self.embedding.embedding[...]
        norms = jnp.square(codes).sum(-1)

        def nearest(vectors: Float[Array, "b m c"]) -> Int[Array, "b m"]:
            products = jnp.matmul(vectors, codes.T, precision=lax.Precision.HIGHEST)
            return jnp.argmin(norms[None, None] - 2 * products, axis=-1)

        if not z.size:
            return jnp.zeros(z.shape[:-1], jnp.int32)
        # Part after part of every image, not image after image: so each device searches for its own
        # images only.
        images = z.astype(jnp.float32).reshape(z.shape[0] if z.ndim > 2 else 1, -1, z.shape[-1])
        vectors = images.shape[1]
        mesh = jax.sharding.get_abstract_mesh()
        here = math.ceil(images.shape[0] / (1 if mesh.empty else mesh.size))
        parts = min(max(1, math.ceil(here * vectors * codes.shape[0] / PAIRS)), vectors)
        padded = jnp.pad(images, ((0, 0), (0, -vectors % parts), (0, 0)))
        cut = padded.reshape(padded.shape[0], parts, -1, z.shape[-1]).swapaxes(0, 1)
        found = lax.map(nearest, cut).swapaxes(0, 1).reshape(padded.shape[:2])
        return found[:, :vectors].reshape(z.shape[:-1])


class Autoencoder(nnx.Module):
    """Images in [-1, 1] to latents at 1 / 2^(levels - 1) of the size, and back.

    Height and width must be divisible by that factor for a round trip of equal size. Latents,
    images and losses are float32 whatever the compute dtype.

    Args:
        kind: "kl" or "vq". channels: width of the first level. latent_channels: of the latent.
        codes: size of the codebook (vq). attention: self-attention in the middle.
        legacy_codebook: beta on the first term of equation (2), as in LDM's code.
        unread: the other keys of config.autoencoder.model.
    """

    last_kernel = ("decoder", "conv_out", "kernel")

    def __init__(
        self,
        make: Maker,
        *,
        kind: str,
        channels: int,
        multipliers: Sequence[int],
        res_blocks: int = 2,
        latent_channels: int = 3,
        codes: int = 8192,
        attention: bool = True,
        legacy_codebook: bool = False,
        **unread: object,
    ):
        self.kind, self.dtype = kind, make.dtype
        self.beta = (BETA, 1.0) if legacy_codebook else (1.0, BETA)
        moments = latent_channels * (2 if kind == "kl" else 1)
        widths = [channels * multiplier for multiplier in multipliers]
        self.encoder = Encoder(make, moments, channels, widths, res_blocks, attention)
        self.decoder = Decoder(make, latent_channels, widths, res_blocks, attention)
        self.quant_conv = make.conv(moments, moments, 1)
        self.post_quant_conv = make.conv(latent_channels, latent_channels, 1)
        self.quantize = Codebook(make, codes, latent_channels) if kind == "vq" else None

    def encode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 m"]:
        """kl: mean and log variance (clipped to [-30, 20]), concatenated; vq: the raw latent."""
        moments = self.quant_conv(self.encoder(x.astype(self.dtype))).astype(jnp.float32)
        if self.kind == "vq":
            return moments
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return jnp.concatenate([mean, jnp.clip(logvar, -30.0, 20.0)], axis=-1)

    def mode(self, moments: Float[Array, "b h w m"]) -> Float[Array, "b h w z"]:
        """The most likely latent."""
        return moments if self.kind == "vq" else jnp.split(moments, 2, axis=-1)[0]

    def sample(self, moments: Float[Array, "b h w m"], key: jax.Array) -> Float[Array, "b h w z"]:
        """A random latent (kl); the latent itself (vq)."""
        if self.kind == "vq":
            return moments
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)

    def nearest_codes(
        self, z: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, ""], Int[Array, "b h w"]]:
        """vq only: nearest codes (gradient straight through to `z`), equation (2), indices."""
        assert self.quantize is not None
        z = z.astype(jnp.float32)
        indices = self.quantize(lax.stop_gradient(z))
        codes = self.quantize.embedding.embedding[...][indices]
        loss = self.beta[0] * jnp.square(codes - lax.stop_gradient(z)).mean()
        loss = loss + self.beta[1] * jnp.square(lax.stop_gradient(codes) - z).mean()
        return z + lax.stop_gradient(codes - z), loss, indices

    def decode(self, z: Float[Array, "b h w z"]) -> Float[Array, "b h2 w2 c"]:
        """An image, about [-1, 1] but not clipped; vq quantizes first."""
        if self.quantize is not None:
            z = self.nearest_codes(z)[0]
        return self.to_image(self.decode_features(z))

    def decode_features(self, z: Float[Array, "b h w z"]) -> Float[Array, "b h2 w2 d"]:
        """What the last layer makes the image of, from a latent that is quantized already."""
        return self.decoder.features(self.post_quant_conv(z.astype(self.dtype)))

    def to_image(self, features: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        """The last layer, whose kernel is at `last_kernel` in the parameters."""
        return self.decoder.conv_out(features).astype(jnp.float32)

    def bottleneck(
        self, x: Float[Array, "b h w c"], key: jax.Array | None = None
    ) -> tuple[Float[Array, "b h2 w2 z"], Float[Array, ""]]:
        """(latent for `decode_features`, regularizer): equation (1), summed over a latent and
        averaged over the batch, or (2). With a key the kl latent is sampled, without it is the
        mode."""
        moments = self.encode(x)
        if self.quantize is not None:
            return self.nearest_codes(moments)[:2]
        z = self.mode(moments) if key is None else self.sample(moments, key)
        return z, kl_divergence(moments)

    def __call__(
        self, x: Float[Array, "b h w c"], key: jax.Array | None = None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, ""]]:
        """(reconstruction, regularizer), as `bottleneck` says."""
        z, loss = self.bottleneck(x, key)
        return self.to_image(self.decode_features(z)), loss


def kl_divergence(moments: Float[Array, "b h w m"]) -> Float[Array, ""]:
    """Equation (1), summed over each latent, mean over the batch."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    terms = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
    return terms.sum((1, 2, 3)).mean()
