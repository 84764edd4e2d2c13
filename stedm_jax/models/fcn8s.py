"""FCN-8s on VGG-16 (Long, Shelhamer, Darrell, CVPR 2015; PAMI 2017), the baseline called
VGG16-FCN8s.

`features` and `classifier` are named as in torchvision's vgg16, whose two hidden linear layers
become a 7x7 and a 1x1 convolution (convert/tables/fcn8s.py); `score_fr`, `score_pool4` and
`score_pool3` as published. With two classes 134,270,278 parameters.

As published: scores start at zero, dropout 0.5 after both wide convolutions, upsampling is bilinear
and not learned. Otherwise: the 7x7 convolution is padded by 3, where the published network pads the
image by 100 and crops the scores; upsampling repeats the edge, where that crop has taken the edge
away; the factors 0.01 and 0.0001 of the variant that is trained all at once are left out (the
staged variant has none).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from stedm_jax.models.layers import Maker, Slots, dropout, resize, to_imagenet, zeros
from stedm_jax.models.vgg import WIDTHS, VggFeatures, pool

DROPOUT = 0.5
he = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


def enlarge(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c"]:
    """`factor` times the size."""
    return resize(x, x.shape[1] * factor, x.shape[2] * factor)


class Fcn8s(nnx.Module):
    """Images to logits at full size.

    Args:
        classes: number of logits. widths: channels of VGG's stages. hidden: of the two wide
          convolutions.
        imagenet_input: turn the colors into those of ImageNet first, as pretrained weights expect.
    """

    def __init__(
        self,
        make: Maker,
        *,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 4096,
        imagenet_input: bool = False,
    ):
        self.imagenet_input = imagenet_input
        self.features = VggFeatures(make, widths)
        wide = make.conv(widths[-1], hidden, 7, init=he)
        self.classifier = Slots({0: wide, 3: make.conv(hidden, hidden, 1, init=he)})
        self.score_fr = make.conv(hidden, classes, 1, init=zeros)
        self.score_pool4 = make.conv(widths[3], classes, 1, init=zeros)
        self.score_pool3 = make.conv(widths[2], classes, 1, init=zeros)

    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b h w classes"]:
        """`x` in [-1, 1], sides divisible by 32; float32 logits. Dropout in training, where a key
        is given."""
        keys = jax.random.split(key) if train and key is not None else (None, None)
        maps = self.features(to_imagenet(x) if self.imagenet_input else x)
        top = pool(maps[4])
        for number, each in zip((0, 3), keys, strict=True):
            top = dropout(nnx.relu(self.classifier[number](top)), DROPOUT, each)
        score = self.score_fr(top).astype(jnp.float32)
        score = enlarge(score, 2) + self.score_pool4(pool(maps[3])).astype(jnp.float32)
        score = enlarge(score, 2) + self.score_pool3(pool(maps[2])).astype(jnp.float32)
        return enlarge(score, 8)
