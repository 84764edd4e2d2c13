"""ResNet (He et al., CVPR 2016) as an encoder: five feature maps, named as in torchvision and smp.

The form of torchvision: in a bottleneck the 3x3 convolution has the stride. Trained parameters
without the classifier, which an encoder does not have: ResNet-18 11,176,512; ResNet-34 21,284,672;
ResNet-50 23,508,032.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.batch_norm import make_norm
from stedm_jax.models.layers import Maker, Slots, kaiming
from stedm_jax.models.named_networks import named_sizes

SIZES = named_sizes("resnet")
EXPANSION = 4


class Block(nnx.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 of which the last is four times as wide; then the sum
    with the input.

    Args:
        cin, width: channels of the input and of the convolutions. stride: of the first 3x3
          convolution.
        bottleneck: the second form. norm: "batch" or "group".
    """

    def __init__(
        self,
        make: Maker,
        cin: int,
        width: int,
        stride: int,
        *,
        bottleneck: bool,
        norm: str,
    ):
        kw = {"bias": False, "init": kaiming}
        cout = width * EXPANSION if bottleneck else width
        plan = [(cin, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            plan = [(cin, width, 1, 1), (width, width, 3, stride), (width, cout, 1, 1)]
        self.layers = len(plan)
        for number, (a, b, size, step) in enumerate(plan, start=1):
            setattr(self, f"conv{number}", make.conv(a, b, size, stride=step, **kw))
            setattr(self, f"bn{number}", make_norm(norm, b))
        shortcut = []
        if stride > 1 or cin != cout:
            shortcut = [make.conv(cin, cout, 1, stride=stride, **kw), make_norm(norm, cout)]
        self.downsample = Slots(shortcut) if shortcut else None

    def __call__(
        self, x: Float[Array, "b h w cin"], train: bool = False
    ) -> Float[Array, "b h2 w2 cout"]:
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample[1](self.downsample[0](x), train)
        for number in range(1, self.layers + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x), train)
            if number < self.layers:
                x = nnx.relu(x)
        return nnx.relu(x + shortcut)


class ResNet(nnx.Module):
    """Images to five feature maps, at 1/2 to 1/32 of the size, the finest first.

    Args:
        depths: blocks of the four stages. width: channels of the stem, doubled by each stage after
          the first.
        bottleneck: the blocks of ResNet-50 and deeper. norm: "batch" (as
          published) or "group".
    """

    def __init__(
        self,
        make: Maker,
        *,
        depths: Sequence[int],
        bottleneck: bool = False,
        width: int = 64,
        norm: str = "batch",
    ):
        self.dtype, self.stages = make.dtype, len(depths)
        self.conv1 = make.conv(3, width, 7, stride=2, bias=False, init=kaiming)
        self.bn1 = make_norm(norm, width)
        widths, cin = [width], width
        for stage, depth in enumerate(depths, start=1):
            narrow, blocks = width * 2 ** (stage - 1), []
            for number in range(depth):
                stride = 2 if stage > 1 and number == 0 else 1
                blocks.append(Block(make, cin, narrow, stride, bottleneck=bottleneck, norm=norm))
                cin = narrow * EXPANSION if bottleneck else narrow
            setattr(self, f"layer{stage}", Slots(blocks))
            widths.append(cin)
        self.widths = tuple(widths)

    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False, key: Any = None
    ) -> list[Float[Array, "b _h _w _c"]]:
        """With `train`, batch norms use and update the statistics of the batch."""
        x = nnx.relu(self.bn1(self.conv1(x.astype(self.dtype)), train))
        features = [x]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # by zeros; nothing is below zero
        x = nnx.max_pool(padded, (3, 3), (2, 2))
        for stage in range(1, self.stages + 1):
            for block in getattr(self, f"layer{stage}"):
                x = block(x, train)
            features.append(x)
        return features


def encoder(
    make: Maker, name: str, sizes: dict[str, Any], *, norm: str, drop_path: float
) -> ResNet:
    """One of SIZES, for a segmenter; it drops no paths."""
    return ResNet(make, **SIZES[name], norm=norm)
