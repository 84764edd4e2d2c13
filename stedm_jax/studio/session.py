"""What one visitor of the page has chosen and made; the page calls these methods and shows what
they return."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_json
from stedm_jax.data.index import IndexRow
from stedm_jax.inference.outputs import write_mask
from stedm_jax.studio.dropped_images import cut_tiles, enlarged, write_image
from stedm_jax.studio.easel import MOST_STEPS, Bag, Easel, Layout, agreement
from stedm_jax.studio.live_sampler import Frame, Wish
from stedm_jax.studio.painting import palette, read_layout, to_canvas, to_mask
from stedm_jax.studio.tile_series import make_series

Captioned = list[tuple[np.ndarray, str]]
LARGEST_SEED = 2**31
CHOSEN = "\N{HEAVY CHECK MARK}"


LIMITS = {
    "seed": (0, LARGEST_SEED),
    "steps": (1, MOST_STEPS),
    "guidance": (0, 20),
    "strength": (0.01, 1),
    "mix": (0, 1),
}


@dataclass(frozen=True)
class Numbers:
    """The numbers on the page: the first seed, and the others as Wish has them."""

    seed: int
    steps: int
    guidance: float
    strength: float
    mix: float

    @classmethod
    def read(cls, *values: Any) -> "Numbers":
        """Numbers in the order of LIMITS, as they come from the page.

        Raises:
          UserError: one is missing or out of its range.
        """
        for (name, (low, high)), value in zip(LIMITS.items(), values, strict=True):
            if not isinstance(value, int | float) or not low <= value <= high:
                found = "empty" if value is None else value
                raise UserError(f"The {name} is {found}; give {low} to {high}.")
        seed, steps, *others = values
        return cls(int(seed), int(steps), *map(float, others))


@dataclass
class Style:
    """A style on the page: tiles of a patient, of which some are chosen, or images that were
    dropped in."""

    patient: str
    rows: Sequence[IndexRow]
    chosen: list[int]
    dropped: Bag | None = None


@dataclass(frozen=True)
class Made:
    """Finished images with all they were made of, and what the segmenter sees in them."""

    images: UInt8[np.ndarray, "b h w 3"]
    wish: Wish
    layout: Layout
    bags: tuple[Bag, Bag]
    seed: int
    seen: Sequence[UInt8[np.ndarray, "h w"]] = field(default_factory=list)


class Session:
    """One visitor.

    Args:
      easel: of the run.
      folder: for the files that are downloaded.
    """

    def __init__(self, easel: Easel, folder: Path):
        self.easel, self.folder = easel, folder
        self.number, self.shown = 0, easel.layouts(0)
        self.layout = Layout(np.zeros((easel.side, easel.side), np.uint8))
        patients = easel.patients
        self.styles = [self._of_patient(patients[0]), self._of_patient(patients[-1])]
        self.made: Made | None = None

    # Layouts

    @property
    def canvas(self) -> UInt8[np.ndarray, "c c 3"]:
        """The layout, to paint on."""
        return to_canvas(self.layout.mask, self.easel.brushes)

    def blank(self, number: int) -> None:
        """Fills the layout with a class."""
        mask = np.full((self.easel.side, self.easel.side), number, np.uint8)
        self.layout = Layout(mask)

    def layouts(self) -> Captioned:
        """Layouts of the run to choose from."""
        least = self.easel.side
        return [(enlarged(self.easel.colored(each.mask), least), "") for each in self.shown]

    def other_layouts(self) -> Captioned:
        """Other ones."""
        self.number += 1
        self.shown = self.easel.layouts(self.number)
        return self.layouts()

    def load(self, number: int) -> None:
        """Takes a layout of the run, with its tile."""
        self.layout = self.shown[number]

    def load_file(self, path: Path) -> None:
        """Takes the layout of a file; errors as `read_layout`."""
        easel = self.easel
        mask = read_layout(path, easel.colors, easel.brushes, easel.side)
        self.layout = Layout(mask, origin={"layout": "of a file"})

    # Styles

    def _of_patient(self, patient: str) -> Style:
        rows = self.easel.tiles(patient)
        count = min(max(self.easel.style.tiles, 1), len(rows))
        chosen = np.linspace(0, len(rows) - 1, count).round().astype(int).tolist()
        return Style(patient, rows, chosen)

    def choose(self, side: int, patient: str) -> Captioned:
        """Takes the tiles of a patient as style 0 or 1."""
        self.styles[side] = self._of_patient(patient)
        return self.tiles(side)

    def toggle(self, side: int, number: int) -> Captioned:
        """Chooses a tile of a style, or no longer."""
        style = self.styles[side]
        if style.dropped is None:
            style.chosen = sorted({number} ^ {*style.chosen})
        return self.tiles(side)

    def drop(self, side: int, paths: Sequence[Path]) -> Captioned:
        """Takes images as a style; errors as `cut_tiles`."""
        tiles, sums = cut_tiles(paths, self.easel.side, max(self.easel.style.tiles, 1))
        bag = Bag(tiles, "dropped images", "", sums)
        self.styles[side] = replace(self.styles[side], dropped=bag)
        return self.tiles(side)

    def tiles(self, side: int) -> Captioned:
        """The tiles of a style, the chosen ones marked."""
        style = self.styles[side]
        if style.dropped is not None:
            return [(enlarged(tile, 128), CHOSEN) for tile in style.dropped.tiles]
        pictures = [enlarged(self.easel.image(row), 128) for row in style.rows]
        return [
            (picture, CHOSEN if number in style.chosen else "")
            for number, picture in enumerate(pictures)
        ]

    def _bag(self, style: Style) -> Bag:
        return style.dropped or self.easel.bag([style.rows[number] for number in style.chosen])

    # Tiles

    def _asked(
        self, picture: UInt8[np.ndarray, "h w c"] | None, numbers: Numbers
    ) -> tuple[Wish, Layout, tuple[Bag, Bag]]:
        """What is asked for, with the layout as it is painted (None: as it was loaded)."""
        easel, layout = self.easel, self.layout
        if picture is not None:
            layout = layout.painted(to_mask(picture, easel.brushes, easel.side))
        first = self._bag(self.styles[0])
        bags = first, self._bag(self.styles[1]) if numbers.mix else first
        tiles = [bag.tiles for bag in bags]
        wish = Wish(
            layout.mask,
            *tiles,
            mix=numbers.mix,
            steps=numbers.steps,
            guidance=numbers.guidance,
            strength=numbers.strength,
            tile=layout.tile,
        )
        return wish, layout, bags

    def make(
        self, picture: UInt8[np.ndarray, "h w c"] | None, numbers: Numbers
    ) -> Iterator[tuple[Captioned, str]]:
        """Images side by side while they come into being, and how far they are.

        Raises:
          UserError: something is missing.
        """
        began, seed = time.monotonic(), numbers.seed
        wish, layout, bags = self._asked(picture, numbers)
        frame: Frame | None = None
        for frame in self.easel.make(wish, seed):
            shown = [(enlarged(image), f"seed {seed + n}") for n, image in enumerate(frame.images)]
            yield shown, f"{frame.done} of {frame.total} steps"
        assert frame is not None
        seen = self.easel.opinion(frame.images)
        self.made = Made(frame.images, wish, layout, bags, seed, seen)
        yield self.pictures(False), f"{frame.total} steps, {time.monotonic() - began:.1f} s"

    def pictures(self, opinion: bool) -> Captioned:
        """The finished images, under what the segmenter sees where that is wanted."""
        if (made := self.made) is None:
            return []
        images, captions = list(made.images), []
        for number in range(len(images)):
            caption = f"seed {made.seed + number}"
            if made.seen:
                classes = self.easel.context.classes.foreground
                share = agreement(made.layout.mask, made.seen[number], classes)
                caption += f" \N{MIDDLE DOT} IoU {share:.2f}" if np.isfinite(share) else ""
            captions.append(caption)
        images = [enlarged(image) for image in images]
        if opinion and made.seen:
            times = images[0].shape[0] // made.images[0].shape[0]
            masks = [mask.repeat(times, axis=0).repeat(times, axis=1) for mask in made.seen]
            images = self.easel.laid_over(images, masks)
        return list(zip(images, captions, strict=True))

    def files(self) -> list[str]:
        """The finished images and the mask as PNG, and what they were made of as JSON."""
        if (made := self.made) is None:
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [f"seed{made.seed + number}.png" for number in range(len(made.images))]
        for name, image in zip(names, made.images, strict=True):
            write_image(self.folder / name, image)
        write_mask(self.folder / "mask.png", made.layout.mask, palette(self.easel.colors))
        write_json(self.folder / "made_of.json", self._made_of(made))
        return [str(self.folder / name) for name in (*names, "mask.png", "made_of.json")]

    def _made_of(self, made: Made) -> Mapping[str, object]:
        about = self.easel.provenance(made.wish, made.layout, made.bags)
        seeds = [made.seed + number for number in range(len(made.images))]
        return {"classes": list(self.easel.names), "seeds": seeds, **about}

    def series(self, count: int | None, name: str) -> Iterator[str]:
        """Many more of the finished images, of the seeds from theirs on; how far it is.

        Raises:
          UserError: nothing was made yet, or as `make_series`.
        """
        if (made := self.made) is None:
            raise UserError("Make tiles first; the set is made of what these were made of.")
        parts = made.wish, made.layout, made.bags
        wanted = int(count or 0)
        for done, folder in make_series(self.easel, *parts, wanted, made.seed, name.strip()):
            if folder is None:
                yield f"{done} of {wanted} tiles are made"
            else:
                yield f"{done} tiles are in {folder}"
