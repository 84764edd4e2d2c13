"""The projection head of DINO (Caron et al., ICCV 2021, section 3.1 and appendix): embedding ->
logits of prototypes.

    h = mlp(x),  three linear layers with GELU between                                  (1)
    logits = (h / |h|) . (w_k / |w_k|)   for each prototype k, without bias               (2)

Dividing by |w_k| is a weight normalization whose gain stays 1, which DINO found to be the stable
one.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from stedm_jax.models.layers import Maker, Slots, trunc_normal

TINY = 1e-12


class DinoHead(nnx.Module):
    """Equations (1) and (2); logits lie in [-1, 1].

    Args:
        width: of the embedding. hidden: of the MLP. bottleneck: of its output. prototypes: K, the
          number of logits.
    """

    def __init__(
        self,
        make: Maker,
        width: int,
        *,
        hidden: int,
        bottleneck: int,
        prototypes: int,
    ):
        self.dtype = make.dtype
        sizes = ((0, width, hidden), (2, hidden, hidden), (4, hidden, bottleneck))
        self.mlp = Slots({slot: make.linear(a, b, init=trunc_normal) for slot, a, b in sizes})
        last = nnx.initializers.normal()(make.key(), (bottleneck, prototypes), jnp.float32)
        self.last_layer = nnx.Param(last)

    def __call__(self, x: Float[Array, "n c"]) -> Float32[Array, "n k"]:
        x = self.mlp[0](x.astype(self.dtype))
        for number in (2, 4):
            x = self.mlp[number](nnx.gelu(x, approximate=False))
        # In float32: the loss divides what follows by temperatures of a few hundredths.
        return jnp.matmul(_unit(x.astype(jnp.float32), -1), _unit(self.last_layer[...], 0))


def _unit(x: Float32[Array, "a b"], axis: int) -> Float32[Array, "a b"]:
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis, keepdims=True) + TINY)
