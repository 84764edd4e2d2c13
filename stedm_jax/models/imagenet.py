"""The colours that networks trained on ImageNet expect."""

import jax.numpy as jnp
from jaxtyping import Array, Float

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_imagenet(x: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """From [-1, 1] to ((x + 1) / 2 - mean) / std, the scale of torchvision, timm and smp weights;
    float32."""
    wide = (1,) * (x.ndim - 1) + (3,)
    factor = 0.5 / jnp.array(STD, jnp.float32)
    offset = (0.5 - jnp.array(MEAN, jnp.float32)) / jnp.array(STD, jnp.float32)
    return x.astype(jnp.float32) * factor.reshape(wide) + offset.reshape(wide)
