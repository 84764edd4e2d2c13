"""The compiled sampler of a generator, for synthesis and for the doctor."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training import peers
from stedm_jax.training.sharding import batch_sharding, replicated


@runtime_checkable
class SamplingTask(Protocol):
    """What the sampler needs of a generator's task."""

    factor: int
    channels: int

    def sample_pixels(
        self,
        params: Any,
        frozen: Any,
        mask: jax.Array,
        styles: jax.Array,
        noise: jax.Array,
        synthesis: Any,
        keys: jax.Array | None,
        tile: jax.Array | None = None,
        own: jax.Array | None = None,
        /,
    ) -> jax.Array:
        """Pixels (b, h, w, 3) of layouts, style tiles and noise, or of tiles to start from and the
        style tiles of their own patients."""
        ...

    def to_images(self, pixels: jax.Array, synthesis: Any, /) -> jax.Array:
        """Pixels as images, uint8."""
        ...


def make_sampler(task: SamplingTask, synthesis: Synthesis, seed: int, mesh: Mesh) -> Any:
    """The jitted `(params, frozen, batch of orders.load) -> images, which of them are finite`.

    The noise of image n depends on the seed and n only.
    """

    def sample(
        params: Any, frozen: Any, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), 0x5A)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(batch["index"])
        side = batch["mask"].shape[1] // task.factor
        shape = (side, side, task.channels)
        noise = jax.vmap(lambda each: jax.random.normal(each, shape, jnp.float32))(keys)
        fresh = jax.vmap(lambda each: jax.random.fold_in(each, 0xE7A))(keys)
        given = params, frozen, batch["mask"], batch["styles"], noise, synthesis, fresh
        pixels = task.sample_pixels(*given, batch.get("tile"), batch.get("own"))
        finite = jnp.isfinite(pixels).all(axis=(1, 2, 3))
        return task.to_images(pixels, synthesis), finite

    # Several hosts each get all images, of which the first writes them.
    out = replicated(mesh) if peers.several() else None
    return jax.jit(sample, in_shardings=(None, None, batch_sharding(mesh)), out_shardings=out)
