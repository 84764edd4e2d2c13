"""A trained run made ready to paint with: its layouts, its style patients, its denoiser and its
segmenter. Nothing in here knows the page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import gcd
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of_json
from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.sampling import GLASS
from stedm_jax.evaluation.panels import color_mask, overlay
from stedm_jax.experiment.context import spread
from stedm_jax.experiment.orders import Orders
from stedm_jax.experiment.saved import open_run
from stedm_jax.experiment.segmenters import trained
from stedm_jax.inference.trained_segmenter import Segmenter, segmenter_of
from stedm_jax.settings.diffusion import Style
from stedm_jax.studio.live_sampler import Frame, LiveSampler, Wish
from stedm_jax.studio.painting import brush_colors
from stedm_jax.synthesize.trained_generator import Generator, generators_of, load_generator
from stedm_jax.training.sharding import make_mesh

SEEDS = 4
"""Images side by side."""
SHOWN = 12
"""Layouts, and tiles of a patient, to choose from at once."""
MOST_STEPS = 100


@dataclass(frozen=True)
class Layout:
    """A layout, and where it comes from.

    Attributes:
      mask: class ids.
      tile: the image that belongs to it; None: there is none.
      patient, slide: of that image.
      origin: what the provenance says of it.
    """

    mask: UInt8[np.ndarray, "h w"]
    tile: UInt8[np.ndarray, "h w 3"] | None = None
    patient: str = "painted"
    slide: str = "painted"
    origin: Mapping[str, str] = field(default_factory=lambda: {"layout": "painted"})

    def painted(self, mask: UInt8[np.ndarray, "h w"]) -> "Layout":
        """This layout after something was painted on it; itself where it is the same."""
        if np.array_equal(mask, self.mask):
            return self
        word = "painted" if self.tile is None else "painted over a layout of the run"
        return replace(self, mask=mask, origin={**self.origin, "layout": word})


@dataclass(frozen=True)
class Bag:
    """Style tiles, whose they are, and which: records of a split, or checksums of files."""

    tiles: UInt8[np.ndarray, "k h w 3"]
    patient: str
    split: str
    records: str


class Easel:
    """What a run can do on demand.

    Args:
      generator: that makes the images, at its point of the run's grid.
      arm: whose segmenter looks at the images; "": the first of the run, if there is one.

    Raises:
      UserError: the tiles of the run are not there, or lend no style.
    """

    def __init__(self, generator: Generator, arm: str = ""):
        context, self.generator, self._arm = generator.context, generator, arm
        devices = list(context.mesh.devices.flat)
        few = make_mesh(devices=devices[: gcd(SEEDS, len(devices))])
        self.context, self.settings = replace(context, mesh=few), context.settings
        below, self.section = generator.below, generator.section
        self.style: Style = below.task.config.style
        self.orders = Orders(self.context, self.section, self.style)
        self.sampler = LiveSampler(
            below.task, generator.params, below.frozen, self.section, context.seed, few, SEEDS
        )
        self.names = self.context.classes.names
        self.colors = self.context.classes.colors
        self.brushes = brush_colors(self.colors)
        self.side = self.context.tiles.tile

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """The segmenter, or None where the run has none."""
        if self._arm:
            return segmenter_of(self.context, self._arm)
        known = trained(self.context.workdir.path)
        draw = self.context.point.draw
        fitting = [one for one in known if not one.taken and one.point.draw == draw]
        return segmenter_of(self.context, fitting[0].name, fitting[0].seed) if fitting else None

    def layouts(self, number: int) -> list[Layout]:
        """SHOWN layouts of the run, those of many classes first; other ones for another number."""
        rows = sorted(
            self.orders.layouts,
            key=lambda row: (-sum(count > 0 for count in row.pixels), row.patient, row.record),
        )
        rounds = -(-len(rows) // SHOWN)
        return [self._layout(row) for row in rows[number % rounds :: rounds][:SHOWN]]

    def _layout(self, row: IndexRow) -> Layout:
        image, mask = self.context.reader.read(row)
        origin = {"layout": "of the run", "layout_split": row.split}
        origin["layout_record"] = str(row.record)
        return Layout(mask, image, row.patient, row.slide, origin)

    @property
    def patients(self) -> list[str]:
        """Patients who lend their style."""
        return self.orders.patients

    def tiles(self, patient: str) -> list[IndexRow]:
        """SHOWN tiles of a patient of the run, from all over the slides."""
        rows = [row for row in self.orders.styles if row.patient == patient and row.kind != GLASS]
        return spread(rows, SHOWN)

    def image(self, row: IndexRow) -> UInt8[np.ndarray, "h w 3"]:
        """The image of a tile."""
        return self.context.reader.read(row)[0]

    def bag(self, rows: Sequence[IndexRow]) -> Bag:
        """Style tiles of chosen ones, which are repeated or thinned out to as many as the style
        takes.

        Raises:
          UserError: none was chosen.
        """
        if not rows:
            raise UserError("No style tile is chosen; choose at least one.")
        places = np.linspace(0, len(rows) - 1, max(self.style.tiles, 1)).round().astype(int)
        chosen = [rows[place] for place in places]
        tiles = np.stack([self.image(row) for row in chosen])
        records = " ".join(str(row.record) for row in chosen)
        return Bag(tiles, chosen[0].patient, chosen[0].split, records)

    def make(self, wish: Wish, first_seed: int) -> Iterator[Frame]:
        """SEEDS images of seeds from `first_seed` on, while they come into being."""
        return self.sampler.frames(wish, range(first_seed, first_seed + SEEDS))

    def warm_up(self) -> None:
        """Compiles everything, so that no one waits for it later."""
        mask = np.zeros((self.side, self.side), np.uint8)
        rows = self.tiles(self.patients[0])
        tiles = self.bag(rows).tiles
        images = [frame.images for frame in self.make(Wish(mask, tiles, tiles, steps=2), 0)]
        self.opinion(images[-1])

    def opinion(self, images: UInt8[np.ndarray, "b h w 3"]) -> list[UInt8[np.ndarray, "h w"]]:
        """What the segmenter sees in SEEDS images; [] where there is none."""
        if self.segmenter is None:
            return []
        maps = np.asarray(self.segmenter.predict(images))
        return [self.segmenter.task.decide(each)[0] for each in maps]

    def laid_over(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        masks: Sequence[UInt8[np.ndarray, "h w"]],
    ) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Images under a tint of masks."""
        pairs = zip(images, masks, strict=True)
        return [overlay(image, mask, self.brushes[:-1]) for image, mask in pairs]

    def colored(self, mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """A mask in the colors of the brushes."""
        return color_mask(mask, self.brushes[:-1])

    def provenance(self, wish: Wish, layout: Layout, bags: Sequence[Bag]) -> dict[str, str]:
        """What is known of how images came to be, but for their seeds.

        Args:
          wish: what was asked for.
          layout: the layout of the wish.
          bags: the style and the one mixed in.
        """
        words = asdict(replace(wish, tile=None))
        numbers = ("mix", "steps", "guidance", "strength")
        about = {
            "method": "studio",
            "generator": self.generator.name,
            "sampler": self.section.sampler,
            "spacing": self.section.spacing,
            "guidance_on": self.section.guidance.on,
            "run_seed": str(self.context.seed),
            "layout_sha256": sha256_of_json(layout.mask.tolist()),
            **{key: f"{words[key]:g}" for key in numbers},
            **layout.origin,
        }
        used = bags if wish.mix > 0 else bags[:1]
        for number, bag in enumerate(used):
            end = "_mixed_in" if number else ""
            about |= {f"style_patient{end}": bag.patient, f"style_split{end}": bag.split}
            about[f"style_records{end}"] = bag.records
        return about | {key: str(value) for key, value in self.generator.provenance.items()}


def agreement(
    layout: UInt8[np.ndarray, "h w"], seen: UInt8[np.ndarray, "h w"], classes: Sequence[int]
) -> float:
    """IoU of a layout and what a segmenter sees, over the labeled pixels, a mean over those of the
    classes that are in either; NaN where none is."""
    known: Bool[np.ndarray, "h w"] = layout != VOID
    shares = []
    for each in classes:
        one, other = (layout == each) & known, (seen == each) & known
        if (either := (one | other).sum()) > 0:
            shares.append((one & other).sum() / either)
    return float(np.mean(shares)) if shares else float("nan")


def open_easel(folder: Path, name: str = "", arm: str = "") -> Easel:
    """The easel of a workdir.

    Args:
      folder: the workdir.
      name: of the generator, as `load_generator` takes it; "": the first, and one that takes a
        style if any does.
      arm: as Easel takes it.

    Raises:
      UserError: as of Easel, `open_run` and `load_generator`.
    """
    context = open_run(folder)
    there = generators_of(context)
    styled = [each for each in there if context.settings.generator(there[each].variant).style.used]
    return Easel(load_generator(context, name or (styled or [""])[0]), arm)
