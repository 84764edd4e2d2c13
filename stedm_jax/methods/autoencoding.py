"""Methods of the first stage alone.

`reconstruction`: the tile of the layout, encoded and decoded. An arm on such copies is the ceiling
of what the first stage lets any sampled image teach. `latent_adain`: the same, with mean and
deviation of each latent channel those of the style tiles (Huang and Belongie, 2017).
"""

from typing import Any

import jax
import numpy as np

from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Orders, bag_of, tile_of
from stedm_jax.methods.method import Prepared, on_devices
from stedm_jax.tasks.channel_statistics import adain, over_bags
from stedm_jax.tasks.images import to_bytes, to_network


def prepare(context: Context, name: str, orders: Orders, learned: Any) -> Prepared:
    """As method.prepare."""
    section = context.settings.synthesis_set(name)
    transfers = context.settings.synthesis.sets[name].method == "latent_adain"
    first, params, origin = learned.autoencoder

    def images(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        image = to_network(batch["tile"])
        z = first.encode(params, image)
        if not transfers:
            return to_bytes(first.decode(params, z))
        styles = over_bags(lambda tiles: first.encode(params, to_network(tiles)), batch["styles"])
        new = first.decode(params, adain(z, styles))
        if section.keep_detail:
            new = image + new - first.decode(params, z)
        return to_bytes(new)

    def load(wanted: Any) -> dict[str, np.ndarray]:
        batch = {"tile": np.stack([tile_of(context.reader, order)[0] for order in wanted])}
        if transfers:
            batch["styles"] = np.stack([bag_of(context.reader, order) for order in wanted])
        return batch

    make = on_devices(context, section.batch, images, params, load)
    about = {"first_sha256": origin.sha256, "keep_detail": str(section.keep_detail)}
    return Prepared(make, about)
