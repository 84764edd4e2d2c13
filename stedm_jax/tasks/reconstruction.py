"""The parts of LDM's loss for an autoencoder that work on images: perceptual and adversarial.

    rec = mean |x - y| + perceptual_weight LPIPS(x, y)                                      (1)
    gan = -mean D(y)                                                                        (2)
    a   = clip(|d rec / d W| / (|d gan / d W| + 1e-4), 0, 1e4),
          W the kernel of the decoder's last layer                                          (3)
    generator     rec + r(n) weight a gan,
                  r(n) = clip((n - start + 1) / ramp, 0, 1), 0 before start                 (4)
    discriminator 1/2 mean relu(1 - D(x)) + 1/2 mean relu(1 + D(y)), y held, from `start`   (5)

n counts updates. Between start and start + ramp the discriminator learns already while the
generator hardly feels it: with ramp 0, as published, an untrained discriminator counts fully at
once, which is what makes the start unstable. (4) and (5) are minimized in one step, each with the
other's parameters held and clipped by itself.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, PyTree

from stedm_jax.models.discriminator import hinge
from stedm_jax.models.functional import Functional
from stedm_jax.settings.autoencoder import Adversarial

MOST = 1e4

ImageLoss = Callable[[Array], Array]


def with_leaf(params: PyTree, path: tuple[str, ...], leaf: Any) -> PyTree:
    """The parameters with another array at a path."""
    name, *rest = path
    return {**params, name: with_leaf(params[name], tuple(rest), leaf) if rest else leaf}


def leaf_at(params: PyTree, path: tuple[str, ...]) -> Any:
    """The array at a path."""
    for name in path:
        params = params[name]
    return params


def ramp_weight(step: Int32[Array, ""], start: int, ramp: int) -> Float[Array, ""]:
    """r(n) of equation (4); with ramp 0 a step from 0 to 1."""
    passed = (step - start + 1).astype(jnp.float32)
    return jnp.clip(passed / max(ramp, 1), 0.0, 1.0)


def adaptive_weight(rec: Float[Array, "*n"], gan: Float[Array, "*n"]) -> Float[Array, ""]:
    """Equation (3) from the two gradients of W."""
    norms = [jnp.sqrt(jnp.square(g.astype(jnp.float32)).sum()) for g in (rec, gan)]
    return jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, MOST)


class Adversary:
    """Equations (2) to (5).

    Args:
      config: config.autoencoder.adversarial.
      discriminator: the network.
    """

    def __init__(self, config: Adversarial, discriminator: Functional):
        self.config, self.network = config, discriminator

    def loss(
        self,
        params: PyTree,
        image: Float[Array, "b h w c"],
        made: Float[Array, "b h w c"],
        rec: ImageLoss,
        last_layer: Callable[[Array], Array],
        kernel: Array,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """rec(made) + the rest of (4) + (5), and scalars to log.

        The decoder, all but its last layer, is run and differentiated once: the two gradients with
        respect to the image, which (3) needs anyhow, are handed on to it as they are. The
        discriminator is run three times from `start` on, for (2) and for both terms of (5), and not
        before.

        Args:
          params: of the discriminator.
          image, made: what was to be reconstructed, and the reconstruction.
          rec: equation (1) of a reconstruction.
          last_layer: `made` from the kernel W alone, all else held.
          kernel: W.
          step: n.
        """
        held, now = lax.stop_gradient(made), step >= self.config.start
        fixed = lax.stop_gradient(params)
        value, slope = jax.value_and_grad(rec)(held)
        gan = lambda y: -self.network.apply(fixed, y).mean()  # noqa: E731
        zero = jnp.float32(0.0)
        # Before the start there is nothing to compute.
        nothing = lambda y: (zero, jnp.zeros_like(y))  # noqa: E731
        gan_value, gan_slope = lax.cond(now, jax.value_and_grad(gan), nothing, held)
        _, pull = jax.vjp(last_layer, lax.stop_gradient(kernel))
        adaptive = adaptive_weight(pull(slope)[0], pull(gan_slope)[0])
        ramp = ramp_weight(step, self.config.start, self.config.ramp)
        share = ramp * self.config.weight * adaptive
        total, toward = lax.stop_gradient((value + share * gan_value, slope + share * gan_slope))
        carrier = jnp.sum(toward * made)

        def judge(params: PyTree) -> tuple[Array, Array, Array]:
            real, fake = self.network.apply(params, image), self.network.apply(params, held)
            return hinge(real, fake), real.mean(), fake.mean()

        judged, real, fake = lax.cond(now, judge, lambda params: (zero, zero, zero), params)
        scalars = {"gan": gan_value, "gan_share": share, "discriminator": judged}
        scalars |= {"adaptive": jnp.where(now, adaptive, 0.0)}
        scalars |= {"logits_real": real, "logits_made": fake}
        # The carrier gives the decoder its gradient and the loss nothing.
        return total + carrier - lax.stop_gradient(carrier) + judged, scalars
