"""The form of smp.Unet: an encoder by name, the UNet decoder, a 3x3 convolution to logits.

STEDM's segmenter is `encoder="mit_b2"` with `norm="batch"` and two classes: 27,477,154 trained
parameters; PathSegDiff's baseline is `encoder="resnet18"`, 14,328,354. Names are those of smp's
state dict, but for ConvNeXt (see convnext.py).

Each block of the decoder doubles the size by repeating pixels, joins the encoder's map of that size
where there is one, and applies two 3x3 convolutions, each with a norm and a ReLU. smp uses batch
normalization ("batch"); with group normalization ("group") the trained parameters have the same
names, there are no running statistics, and small batches do no harm.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from stedm_jax.models.batch_norm import make_norm
from stedm_jax.models.convolution import upsample_nearest
from stedm_jax.models.layers import Maker, Slots, to_imagenet
from stedm_jax.models.named_networks import SEGMENTER_ENCODERS, find

kaiming = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform")


class ConvNormReLU(Slots):
    """3x3 convolution without bias, norm, ReLU; numbered 0 and 1 as in smp."""

    def __init__(self, make: Maker, cin: int, cout: int, norm: str):
        layer = make.conv(cin, cout, 3, bias=False, init=kaiming)
        super().__init__({0: layer, 1: make_norm(norm, cout)})

    def __call__(
        self, x: Float[Array, "b h w cin"], train: bool = False
    ) -> Float[Array, "b h w cout"]:
        return nnx.relu(self[1](self[0](x), train))


class DecoderBlock(nnx.Module):
    """Double the size, join the skip, two convolutions."""

    def __init__(self, make: Maker, cin: int, skip: int, cout: int, norm: str):
        self.conv1 = ConvNormReLU(make, cin + skip, cout, norm)
        self.conv2 = ConvNormReLU(make, cout, cout, norm)

    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        skip: Float[Array, "b h2 w2 s"] | None,
        train: bool,
    ) -> Float[Array, "b h2 w2 cout"]:
        x = upsample_nearest(x)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
        return self.conv2(self.conv1(x, train), train)


class UnetDecoder(nnx.Module):
    """One block for each of `channels`; as many of the first ones have skips as there are.

    Args:
        features: channels of the encoder's maps, finest first. channels: of the blocks.
        norm: "batch" or "group".
    """

    def __init__(
        self,
        make: Maker,
        features: Sequence[int],
        channels: Sequence[int],
        norm: str,
    ):
        cin, *skips = reversed(features)
        skips += [0] * (len(channels) - len(skips))
        blocks = []
        for skip, cout in zip(skips, channels, strict=True):
            blocks.append(DecoderBlock(make, cin, skip, cout, norm))
            cin = cout
        self.blocks = Slots(blocks)

    def __call__(
        self, features: Sequence[Float[Array, "b _h _w _c"]], train: bool = False
    ) -> Float[Array, "b _h2 _w2 _c2"]:
        x, *skips = reversed(features)
        for i, block in enumerate(self.blocks):
            x = block(x, skips[i] if i < len(skips) else None, train)
        return x


class Segmenter(nnx.Module):
    """Images to logits at full size.

    Args:
        classes: number of logits. encoder: one of named_networks.SEGMENTER_ENCODERS.
        decoder: channels of the decoder's blocks, each of which doubles the size; five, but for
            "mit" one more than it has stages, since its first stage is at a quarter of the size.
        norm: of the decoder and of ResNet, "batch" (as published) or "group".
        drop_path: stochastic depth of a MiT.
        imagenet_input: turn the colors into those of ImageNet first, as pretrained encoders expect.
        sizes: widths, depths, heads and reductions of the stages of "mit".
    """

    def __init__(
        self,
        make: Maker,
        *,
        classes: int,
        encoder: str,
        decoder: Sequence[int] = (256, 128, 64, 32, 16),
        norm: str = "group",
        drop_path: float = 0.0,
        imagenet_input: bool = False,
        **sizes: Sequence[int],
    ):
        self.imagenet_input = imagenet_input
        self.encoder: Any = find(SEGMENTER_ENCODERS[encoder])(
            make, encoder, sizes, norm=norm, drop_path=drop_path
        )
        self.decoder = UnetDecoder(make, self.encoder.widths, decoder, norm)
        self.segmentation_head = Slots({0: make.conv(decoder[-1], classes, 3)})

    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b h w classes"]:
        """`x` in [-1, 1], sides divisible by 2^(blocks of the decoder); float32 logits.

        With `train`, batch norms use the statistics of the batch and keep new running ones
        (batch_norm.running_stats), and `key`, where given, is that of stochastic depth.
        """
        features = self.encoder(to_imagenet(x) if self.imagenet_input else x, train, key)
        return self.segmentation_head[0](self.decoder(features, train)).astype(jnp.float32)

    def embed(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Means over positions of all maps of the encoder, float32: features that compare tiles."""
        maps = self.encoder(to_imagenet(x) if self.imagenet_input else x, False, None)
        return jnp.concatenate([each.astype(jnp.float32).mean((1, 2)) for each in maps], axis=-1)
