"""AdaIN as published (Huang and Belongie, ICCV 2017): the labelled tile's VGG features get mean and
deviation of those of its style tiles, channel by channel, and a trained decoder makes the image.

Both networks are published weights, which `adain` names; nothing is trained here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.experiment.context import Context
from stedm_jax.experiment.init_weights import load_weights
from stedm_jax.experiment.orders import Orders, bag_of, tile_of
from stedm_jax.experiment.pinned import identify
from stedm_jax.methods.method import Prepared, on_devices
from stedm_jax.models.named_networks import STYLE_TRANSFER, network
from stedm_jax.settings.methods import ADAIN_KEY
from stedm_jax.tasks.channel_statistics import adain, over_bags
from stedm_jax.tasks.images import to_bytes


def prepare(context: Context, name: str, orders: Orders, learned: Any) -> Prepared:
    """As method.prepare."""
    section, net = context.settings.synthesis_set(name), network(STYLE_TRANSFER, context.dtype)
    params = load_weights(net.abstract, section.adain, ADAIN_KEY)

    def features(params: Any, tiles: jax.Array) -> jax.Array:
        image = tiles.astype(jnp.float32) / 255.0
        return net.apply(params, image, method="encode").astype(jnp.float32)

    def images(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        styles = over_bags(lambda tiles: features(params, tiles), batch["styles"])
        new = adain(features(params, batch["tile"]), styles)
        return to_bytes(net.apply(params, new, method="decode").astype(jnp.float32) * 2.0 - 1.0)

    def load(wanted: Any) -> dict[str, np.ndarray]:
        tiles = [tile_of(context.reader, order)[0] for order in wanted]
        bags = [bag_of(context.reader, order) for order in wanted]
        return {"tile": np.stack(tiles), "styles": np.stack(bags)}

    make = on_devices(context, section.batch, images, params, load)
    return Prepared(make, {"adain_sha256": identify(section.adain, ADAIN_KEY).sha256})
