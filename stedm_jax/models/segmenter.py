"""The form of smp.Unet: an encoder by name, the UNet decoder, a 3x3 convolution to logits.

STEDM's segmenter is `encoder="mit_b2"` with `norm="batch"` and two classes: 27,477,154 trained
parameters; PathSegDiff's baseline is `encoder="resnet18"`, 14,328,354. Names are those of smp's
state dict, but for ConvNeXt (see convnext.py).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from stedm_jax.models import convnext, mit, resnet
from stedm_jax.models.imagenet import to_imagenet
from stedm_jax.models.layers import Slots, conv
from stedm_jax.models.unet_decoder import UnetDecoder

CUSTOM = "mit"
ENCODERS = (CUSTOM, *mit.SIZES, *resnet.SIZES, *convnext.SIZES)


def make_encoder(
    name: str, *, norm: str, drop_path: float, custom: dict[str, Any], **kw: Any
) -> nnx.Module:
    """One of ENCODERS; `custom` are the sizes of "mit", `norm` is for those that have batch norms
    as published."""
    families: tuple[
        tuple[dict[str, dict[str, Any]], Callable[..., nnx.Module], dict[str, Any]], ...
    ] = (
        ({CUSTOM: custom, **mit.SIZES}, mit.MixTransformer, {"drop_path": drop_path}),
        (resnet.SIZES, resnet.ResNet, {"norm": norm}),
        (convnext.SIZES, convnext.ConvNeXt, {}),
    )
    for sizes, build, options in families:
        if name in sizes:
            return build(**sizes[name], **options, **kw)
    raise ValueError(f"encoder {name!r} is not one of {', '.join(ENCODERS)}")


class Segmenter(nnx.Module):
    """Images to logits at full size.

    Args:
        classes: number of logits. encoder: one of ENCODERS.
        widths, depths, heads, reductions: of the encoder's stages, for "mit" only.
        decoder: channels of the decoder's blocks, each of which doubles the size; five, but for
            "mit" one more than it has stages, since its first stage is at a quarter of the size.
        norm: of the decoder and of ResNet, one of batch_norm.NORMS ("batch" as published).
          drop_path: see mit.py.
        imagenet_input: turn the colours into those of ImageNet first, as pretrained encoders
          expect.
    """

    def __init__(
        self,
        *,
        classes: int,
        encoder: str = CUSTOM,
        widths: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        decoder: Sequence[int] = (256, 128, 64, 32, 16),
        norm: str = "group",
        drop_path: float = 0.0,
        imagenet_input: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        blocks = len(widths) + 1 if encoder == CUSTOM else 5
        if len(decoder) != blocks:
            raise ValueError(
                f"encoder {encoder!r} needs {blocks} decoder blocks, not {len(decoder)}"
            )
        self.factor, self.imagenet_input = 2 ** len(decoder), imagenet_input
        custom = {"widths": widths, "depths": depths, "heads": heads, "reductions": reductions}
        self.encoder: Any = make_encoder(
            encoder, norm=norm, drop_path=drop_path, custom=custom, **kw
        )
        self.decoder = UnetDecoder(self.encoder.widths, decoder, norm=norm, **kw)
        self.segmentation_head = Slots({0: conv(decoder[-1], classes, 3, **kw)})

    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b h w classes"]:
        """`x` in [-1, 1], sides divisible by `factor` (32 for four stages); float32 logits.

        With `train`, batch norms use the statistics of the batch and keep new running ones
        (batch_norm.running_stats), and `key`, where given, is that of stochastic depth.
        """
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(f"an image of {x.shape[1:3]} is not divisible by {self.factor}")
        features = self._encode(to_imagenet(x) if self.imagenet_input else x, train, key)
        return self.segmentation_head[0](self.decoder(features, train)).astype(jnp.float32)

    def _encode(
        self, x: Float[Array, "b h w 3"], train: bool, key: PRNGKeyArray | None
    ) -> list[Float[Array, "b _h _w _c"]]:
        if isinstance(self.encoder, resnet.ResNet):
            return self.encoder(x, train)
        if isinstance(self.encoder, mit.MixTransformer):
            return self.encoder(x, key if train else None)
        return self.encoder(x)
