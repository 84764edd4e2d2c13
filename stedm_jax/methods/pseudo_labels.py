"""Pseudo-labels: tiles of the style patients, with what the judge is sure of as their masks.

The judge's averaged weights are used where it keeps an average (segmentation.train.ema.decay),
which makes it a mean teacher (Tarvainen and Valpola, 2017). A pixel whose most probable class has a
probability below `confidence` is unlabeled.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.common.labels import VOID
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import StyleOrders, tile_of
from stedm_jax.methods.method import Prepared, on_devices


def prepare(context: Context, name: str, orders: StyleOrders, learned: Any) -> Prepared:
    """As method.prepare; the masks are a fourth channel of the images."""
    section = context.settings.synthesis_set(name)
    judge, params = learned.judge

    def images(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        probability = judge.maps(params, {}, batch["tile"])
        sure = probability.max(axis=-1) >= section.confidence
        mask = jnp.where(sure, probability.argmax(axis=-1), VOID).astype(jnp.uint8)
        return jnp.concatenate([batch["tile"], mask[..., None]], axis=-1)

    def load(wanted: Any) -> dict[str, np.ndarray]:
        return {"tile": np.stack([tile_of(context.reader, order)[0] for order in wanted])}

    make = on_devices(context, section.batch, images, params, load)
    return Prepared(make, {"confidence": str(section.confidence)})
