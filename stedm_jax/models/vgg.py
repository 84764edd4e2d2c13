"""The convolutions of VGG-16 (Simonyan and Zisserman, ICLR 2015), numbered as `features` of
torchvision's vgg16."""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.layers import Maker, Slots, kaiming

WIDTHS, CONVOLUTIONS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)


def pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The largest of each 2x2 pixels."""
    return nnx.max_pool(x, (2, 2), (2, 2))


class VggFeatures(Slots):
    """Five stages of 3x3 convolutions with ReLU, a pooling between them; 14,714,688 parameters.

    Args:
        widths: channels of the stages.
    """

    def __init__(self, make: Maker, widths: Sequence[int]):
        plan, layers, number, cin = [], {}, 0, 3
        for width, depth in zip(widths, CONVOLUTIONS, strict=True):
            stage = []
            for _ in range(depth):
                layers[number] = make.conv(cin, width, 3, init=kaiming)
                stage.append(number)
                cin, number = width, number + 2  # torchvision also numbers the ReLU
            plan.append(tuple(stage))
            number += 1  # and the pooling
        super().__init__(layers)
        self.dtype, self.plan = make.dtype, tuple(plan)

    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        """The last map of each stage, at 1 to 1/16 of the size, before it is pooled."""
        x, maps = x.astype(self.dtype), []
        for stage in self.plan:
            x = pool(maps[-1]) if maps else x
            for number in stage:
                x = nnx.relu(self[number](x))
            maps.append(x)
        return maps
