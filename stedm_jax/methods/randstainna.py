"""RandStainNA (Shen et al., MICCAI 2022): labelled tiles in the colors of virtual templates.

Mean and deviation of each LAB channel over the tissue of a tile are six numbers. Over the style
tiles each is taken as normal; an image's template is a draw of all six, to which its tile is
brought after Reinhard. The published code fits them on the training tiles; here they are those of
the unannotated patients, all together.
"""

from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.processors import in_threads
from stedm_jax.data.index import IndexRow
from stedm_jax.data.stain import Colors, Normalizer, Unfit, find_colors
from stedm_jax.experiment.context import Context, spread
from stedm_jax.experiment.orders import Order, Orders, tile_of
from stedm_jax.methods.method import Prepared, on_host

MOST_TILES = 1024
"""That the normal distributions are fitted to."""
LEAST_DEVIATION = 1e-3


def prepare(context: Context, name: str, orders: Orders, learned: Any) -> Prepared:
    """As method.prepare."""
    reader, seed = context.reader, context.settings.seed

    def measure(row: IndexRow) -> np.ndarray | None:
        try:
            colors = find_colors(reader.read(row)[0])
        except Unfit:
            return None
        return np.concatenate([colors.mean, colors.std])

    found = [each for each in in_threads(measure, spread(orders.styles, MOST_TILES))]
    known = [each for each in found if each is not None]
    if not known:
        raise UserError(
            f"No style tile of the set '{name}' shows tissue, so randstainna has no colors to draw "
            "from; choose another synthesis.styles."
        )
    center, deviation = np.mean(known, axis=0), np.std(known, axis=0)

    def image(order: Order) -> np.ndarray:
        drawn = np.random.default_rng((seed, order.index, 2)).normal(center, deviation)
        template = Colors(drawn[:3], np.maximum(drawn[3:], LEAST_DEVIATION))
        return Normalizer(template)(tile_of(reader, order)[0])

    return Prepared(on_host(image))
