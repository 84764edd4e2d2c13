"""Deep contour-aware network (Chen, Qi, Yu, Heng, CVPR 2016, arXiv 1604.02677), GlaS's entry
CUMedVision2.

One downsampling path, shared; two upsampling paths, one for objects and one for their contours.
Each path scores three levels, brings each to full size by a deconvolution and sums them; the three
are also supervised by themselves.

    (1)  L = L_objects + L_contours + sum_a w_a L_a
         w_a = max(10^-floor(n / 10000), 10^-3) at update n
    (2)  pixel of an object:  p_objects >= 0.5 and p_contours < 0.5

From the paper: five poolings, three deconvolutions, 512, 512 and 1024 channels where they start,
sum of the three, softmax over two classes a path, equations (1) and (2), dropout 0.5, a
downsampling path that starts from DeepLab's weights, contours that are widened by a disk of radius
3, crops of 480 pixels, SGD from 0.001.

Not found, and chosen here: the downsampling path is VGG-16 (`features`, named as in torchvision)
with DeepLab's two wide convolutions of 1024 channels, 3x3 (`fc6`, its dilation: 1) and 1x1 (`fc7`);
the levels are the ends of stages four and five before pooling and `fc7`, at 1/8, 1/16 and 1/32; a
score is a 1x1 convolution, and the deconvolution follows it, with a kernel of twice its stride that
starts as bilinear interpolation; dropout after `fc6` and `fc7`. With two classes of objects
20,535,128 parameters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from stedm_jax.models.layers import Maker, Slots, dropout, to_imagenet
from stedm_jax.models.vgg import WIDTHS, VggFeatures, pool

STRIDES, DROPOUT, THRESHOLD = (8, 16, 32), 0.5, 0.5
he = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class DcanOutput(NamedTuple):
    """Float32 logits (b, h, w, classes) of both paths, and for each level (objects, contours) by
    themselves."""

    objects: Float[Array, "b h w k"]
    contours: Float[Array, "b h w 2"]
    auxiliary: tuple[tuple[Float[Array, "b h w k"], Float[Array, "b h w 2"]], ...]


def auxiliary_weight(step: Int[Array, ""]) -> Float[Array, ""]:
    """w_a of equation (1)."""
    return jnp.maximum(10.0 ** -(step // 10_000).astype(jnp.float32), 1e-3)


def contour_target(objects: Int[Array, "b h w"], radius: int) -> Bool[Array, "b h w"]:
    """Pixels within `radius` of the rim of an object, on either side; `objects` are numbers, 0 for
    none.

    The rim are the pixels of an object with another number beside them. With classes in place of
    numbers, touching objects of a class have no contour between them.
    """
    padded, (h, w) = jnp.pad(objects, ((0, 0), (1, 1), (1, 1)), mode="edge"), objects.shape[1:]
    beside = [
        padded[:, 1 + i : 1 + i + h, 1 + j : 1 + j + w]
        for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))
    ]
    return dilate(jnp.stack([each != objects for each in beside]).any(0) & (objects > 0), radius)


def dilate(mask: Bool[Array, "b h w"], radius: int) -> Bool[Array, "b h w"]:
    """Pixels within `radius` of one of the mask."""
    steps = np.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps[None] ** 2 <= radius**2).astype(np.float32)
    reached = lax.conv_general_dilated(
        mask.astype(jnp.float32)[..., None],
        jnp.asarray(disk)[..., None, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return reached[..., 0] > 0.5


def bilinear_kernel(stride: int, channels: int) -> Float[np.ndarray, "n n c c"]:
    """The kernel with which a deconvolution of this stride interpolates each channel by itself."""
    distance = np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
    line = (1.0 - distance).astype(np.float32)
    return (
        line[:, None, None, None] * line[None, :, None, None] * np.eye(channels, dtype=np.float32)
    )


class Deconvolution(nnx.Module):
    """Transposed convolution, kernel 2 * stride, to `stride` times the size."""

    def __init__(self, channels: int, stride: int):
        self.stride = stride
        self.kernel = nnx.Param(jnp.asarray(bilinear_kernel(stride, channels)))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """The kernel is (h, w, out, in), as in PyTorch's layout, turned by 180 degrees for the
        convolution below."""
        side = 2 * self.stride - 1 - self.stride // 2
        kernel = self.kernel[...][::-1, ::-1].swapaxes(2, 3)
        out = lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((side, side), (side, side)),
            lhs_dilation=(self.stride, self.stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out + self.bias[...][None, None, None]


class Level(nnx.Module):
    """A score of one level, at full size."""

    def __init__(self, make: Maker, cin: int, classes: int, stride: int):
        self.score = make.conv(cin, classes, 1)
        self.up = Deconvolution(classes, stride)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 k"]:
        return self.up(self.score(x).astype(jnp.float32))


class Dcan(nnx.Module):
    """Images to objects and contours.

    Args:
        classes: of the objects, background included; the contours have two. widths: channels of
          VGG's stages.
        hidden: of the two wide convolutions. imagenet_input: turn the colors into those of ImageNet
          first.
    """

    def __init__(
        self,
        make: Maker,
        *,
        classes: int = 2,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 1024,
        imagenet_input: bool = False,
    ):
        self.imagenet_input = imagenet_input
        self.features = VggFeatures(make, widths)
        self.fc6 = make.conv(widths[4], hidden, 3, init=he)
        self.fc7 = make.conv(hidden, hidden, 1, init=he)
        channels = (widths[3], widths[4], hidden)

        def path(logits: int) -> Slots:
            sizes = zip(channels, STRIDES, strict=True)
            return Slots([Level(make, cin, logits, stride) for cin, stride in sizes])

        self.objects, self.contours = path(classes), path(2)

    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False, key: PRNGKeyArray | None = None
    ) -> DcanOutput:
        """`x` in [-1, 1], sides divisible by 32. Dropout in training, where a key is given."""
        keys = jax.random.split(key) if train and key is not None else (None, None)
        maps = self.features(to_imagenet(x) if self.imagenet_input else x)
        top = dropout(nnx.relu(self.fc6(pool(maps[4]))), DROPOUT, keys[0])
        levels = (maps[3], maps[4], dropout(nnx.relu(self.fc7(top)), DROPOUT, keys[1]))
        pairs = tuple(
            (objects(level), contours(level))
            for level, objects, contours in zip(levels, self.objects, self.contours, strict=True)
        )
        return DcanOutput(*(a + b + c for a, b, c in zip(*pairs, strict=True)), auxiliary=pairs)
