"""What samples are made from: which layout, in which symmetry, in the style of which tiles of which
patient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.affine import Affine
from stedm_jax.data.augment import dihedral
from stedm_jax.data.class_shares import expected_shares
from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import TileReader
from stedm_jax.data.sampling import GLASS, Rounds, divide
from stedm_jax.data.schema import check_disjoint
from stedm_jax.data.stain import KINDS, match
from stedm_jax.data.styles import StylePool
from stedm_jax.experiment.context import Context, spread
from stedm_jax.experiment.slide_tags import Partners
from stedm_jax.settings.diffusion import Style
from stedm_jax.settings.methods import PSEUDO_LABELS
from stedm_jax.settings.synthesis import Synthesis

GRID = 2**31
"""Numbers from here on are those of the grid of layouts and styles in the report."""
PUBLISHED_SHARE = 0.5
"""Share of style tiles that the code released with STEDM distorts at synthesis, if any."""


@dataclass(frozen=True)
class Order:
    """What image number `index` is made from.

    Attributes:
      layout: the tile whose mask, in symmetry number `turn`, is the layout.
      styles: style tiles, of style_patient.
      own: style tiles of the layout's own patient, where the tile is inverted.
      distorted: how the layout and its tile are distorted, after the turn; None: they are not.
      styles_distorted: the same of each style tile, or ().
    """

    index: int
    layout: IndexRow
    turn: int
    style_patient: str
    styles: tuple[IndexRow, ...]
    own: tuple[IndexRow, ...] = ()
    distorted: Affine | None = None
    styles_distorted: tuple[Affine | None, ...] = ()


class Orders:
    """The orders of a synthesis set, by number.

    Args:
      context: of the run.
      synthesis: settings of the set.
      style: settings of its generator's style.

    Raises:
      UserError: no layout or style tile fits, a layout has no partner (`pair_by`), or a patient of
        the validation or test split would be used.
    """

    def __init__(self, context: Context, synthesis: Synthesis, style: Style):
        tiles = context.tiles
        data, self.seed = context.settings.data, context.seed
        area = tiles.tile**2 * synthesis.min_labelled
        rows = context.rows(synthesis.layouts)
        self.layouts = [row for row in rows if row.labelled >= area]
        if not self.layouts:
            raise UserError(
                f"No tile of the split '{synthesis.layouts}' is labeled to at least "
                f"{synthesis.min_labelled:.0%}; lower synthesis.min_labelled."
            )
        self.styles = context.rows(synthesis.styles)
        source = "none" if style.source == "none" else "multipatch"
        self.pool = StylePool(self.styles, source, style.scope, style.tiles)
        self.own = StylePool(rows, source, style.scope, style.tiles) if synthesis.inverts else None
        given = context, synthesis.pair_by, self.layouts, self.styles, self.pool.patients
        self.partners = Partners(*given) if synthesis.pair_by else None
        self.published, self.augment_layouts = style.as_published_code, synthesis.augment_layouts
        distorts = self.published and style.source == "augmented"
        self.augment_styles = PUBLISHED_SHARE if distorts else 0.0
        # A draw may bring records of several packed splits together, each numbered from 0.
        self.rows = rows
        self.places = {(row.split, row.record): place for place, row in enumerate(rows)}
        as_real = not synthesis.shares
        self.parts = divide(
            self.layouts,
            tiles.classes,
            context.classes,
            shares=data.shares if as_real else synthesis.shares,
            uniform=data.uniform,
            key="data.shares" if as_real else "synthesis.shares",
        )
        self.classes = context.classes
        used = {row.patient for row in (*self.layouts, *self.styles)}
        held_out = {split: tiles.patients(split) for split in ("val", "test")}
        check_disjoint({"synthesis": used, **held_out}, "the patients that synthesis would use")

    def __getitem__(self, index: int) -> Order:
        rng = np.random.default_rng((self.seed, index))
        weights = np.array([part.weight for part in self.parts])
        part = self.parts[rng.choice(len(self.parts), p=weights / weights.sum())]
        layout = self.layouts[part.draw(rng)]
        patients = self.partners.of(layout) if self.partners else self.pool.patients
        patient = patients[index % len(patients)]
        chosen = self.pool.choose_for_patient(patient, rng)
        turn = int(rng.integers(8))
        order = self._order(index, layout, turn, patient, [self.styles[i] for i in chosen])
        rng = np.random.default_rng((self.seed, index, 2))
        distorted = self._distortion(self.augment_layouts, rng)
        styles = tuple(self._distortion(self.augment_styles, rng) for _ in chosen)
        return replace(order, distorted=distorted, styles_distorted=styles)

    def _distortion(self, share: float, rng: np.random.Generator) -> Affine | None:
        return Affine.draw(rng, self.published) if rng.random() < share else None

    @property
    def patients(self) -> list[str]:
        """Patients who lend their style."""
        return self.pool.patients

    @property
    def class_shares(self) -> dict[str, float]:
        """Class -> its share of the labeled pixels of the layouts, on average."""
        return expected_shares(self.layouts, self.parts, self.classes)

    def grid(self, rows: int, columns: int) -> list[list[Order]]:
        """Each of a few layouts with the style of each of a few patients, at the same noise along a
        row; also pairs that `pair_by` leaves out."""
        mixed = sorted(self.layouts, key=lambda row: -sum(count > 0 for count in row.pixels))
        layouts = spread(mixed[: max(rows, len(mixed) // 4)], rows)
        bags = {}
        for number, patient in enumerate(spread(self.pool.patients, columns)):
            chosen = self.pool.choose_for_patient(
                patient, np.random.default_rng((self.seed, GRID + number))
            )
            bags[patient] = tuple(self.styles[i] for i in chosen)
        return [
            [self._order(GRID + number, layout, 0, patient, bag) for patient, bag in bags.items()]
            for number, layout in enumerate(layouts)
        ]

    def _order(
        self, index: int, layout: IndexRow, turn: int, patient: str, styles: Sequence[IndexRow]
    ) -> Order:
        own = ()
        if self.own is not None:
            rng = np.random.default_rng((self.seed, index, 1))
            place = self.places[layout.split, layout.record]
            own = tuple(self.rows[i] for i in self.own.choose(place, rng))
        return Order(index, layout, turn, patient, tuple(styles), own)


class StyleOrders:
    """The orders of a set whose images are the tiles of the style patients themselves: patients in
    turn, and of each all tiles once before any comes again.

    Args:
      context: of the run.
      synthesis: settings of the set.

    Raises:
      UserError: a patient of the validation or test split would be used.
    """

    def __init__(self, context: Context, synthesis: Synthesis):
        self.styles = context.rows(synthesis.styles)
        tissue = [row for row in self.styles if row.kind != GLASS]
        self.patients = sorted({row.patient for row in tissue})
        self.groups = [
            [row for row in tissue if row.patient == patient] for patient in self.patients
        ]
        places = [[(p, i) for i in range(len(group))] for p, group in enumerate(self.groups)]
        self.rounds = Rounds(places, context.settings.seed)
        held_out = {split: context.tiles.patients(split) for split in ("val", "test")}
        check_disjoint(
            {"synthesis": set(self.patients), **held_out}, "the patients that synthesis would use"
        )

    def __getitem__(self, index: int) -> Order:
        patient, place = self.rounds[index]
        return self._order(index, self.groups[patient][place])

    def grid(self, rows: int, columns: int) -> list[list[Order]]:
        """Some tiles of a few patients, a column each."""
        shown = [spread(group, rows) for group in spread(self.groups, columns)]
        return [
            [self._order(GRID + number, group[min(number, len(group) - 1)]) for group in shown]
            for number in range(max(map(len, shown)))
        ]

    def _order(self, index: int, row: IndexRow) -> Order:
        return Order(index, row, 0, row.patient, (row,))


def orders_of(context: Context, name: str) -> Orders | StyleOrders:
    """The orders of a set; errors as of their classes."""
    settings = context.settings
    section = settings.synthesis_set(name)
    if settings.synthesis.sets[name].method == PSEUDO_LABELS:
        return StyleOrders(context, section)
    return Orders(context, section, settings.style_of(name))


def tile_of(reader: TileReader, order: Order) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of the tile of a layout, turned and distorted."""
    image, mask = (dihedral(each, order.turn) for each in reader.read(order.layout))
    if order.distorted is None:
        return image, mask
    return order.distorted.image(image), order.distorted.mask(mask)


def bag_of(reader: TileReader, order: Order) -> np.ndarray:
    """Its style tiles, stacked."""
    tiles = [reader.read(row)[0] for row in order.styles]
    pairs = zip_longest(tiles, order.styles_distorted)
    return np.stack([tile if by is None else by.image(tile) for tile, by in pairs])


def load(
    reader: TileReader, orders: Sequence[Order], synthesis: Synthesis
) -> dict[str, np.ndarray]:
    """Layouts, style tiles and numbers of a batch of orders, stacked; where sampling starts from
    tiles also these (in the colors of the style tiles, where they are matched on the host), and
    where these are inverted the style tiles of their own patients."""
    tiles, masks = zip(*(tile_of(reader, order) for order in orders), strict=True)
    styles = [bag_of(reader, order) for order in orders]
    numbers = np.array([order.index for order in orders], np.uint32)
    batch = {"mask": np.stack(masks), "styles": np.stack(styles), "index": numbers}
    if synthesis.reads_tile:
        if synthesis.match in KINDS:
            kind = synthesis.match
            tiles = [match(kind, tile, bag) for tile, bag in zip(tiles, styles, strict=True)]
        batch["tile"] = np.stack(tiles)
    if synthesis.inverts:
        batch["own"] = np.stack([[reader.read(row)[0] for row in each.own] for each in orders])
    return batch


def real_shares(context: Context) -> dict[str, float]:
    """Class -> its share of the labeled pixels that training on real tiles draws, on average."""
    rows, data, classes = context.rows("train"), context.settings.data, context.classes
    known = context.tiles.classes
    parts = divide(rows, known, classes, shares=data.shares, uniform=data.uniform)
    return expected_shares(rows, parts, classes)
