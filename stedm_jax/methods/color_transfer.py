"""Reinhard or Macenko transfer: labelled tiles in the colors of style tiles, without any network.

The image of an order is the tile of its layout, whose LAB mean and deviation (Reinhard et al.,
2001), or whose stains (Macenko et al., 2009), become those of the bag of its style tiles, over
tissue. Where tile or bag shows no stain, the tile stays as it is.
"""

from typing import Any

from stedm_jax.data.stain import match
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Order, Orders, bag_of, tile_of
from stedm_jax.methods.method import Prepared, on_host


def prepare(context: Context, name: str, orders: Orders, learned: Any) -> Prepared:
    """As method.prepare."""
    kind, reader = context.settings.synthesis.sets[name].method, context.reader

    def image(order: Order) -> Any:
        return match(kind, tile_of(reader, order)[0], bag_of(reader, order))

    return Prepared(on_host(image))
