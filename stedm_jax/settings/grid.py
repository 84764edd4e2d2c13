"""Keys of the grid: draws of the labeled patients, crossed with seeds of the generators."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stedm_jax.settings.key import Ints, Texts, key, nonnegative, section

MOVABLE: tuple[str, ...] = ("train", "val", "style")
"""Splits among which a draw may move patients; test patients stay test patients."""


@dataclass(frozen=True)
class Point:
    """A place in the grid.

    Attributes:
      draw: of grid.draws; "" without draws, or where they change nothing.
      generator_seed: of grid.generator_seeds; None where no generator is involved.
    """

    draw: str = ""
    generator_seed: int | None = None

    def __str__(self) -> str:
        """What it adds to the name of a cell: "@DRAW.SEED", "@DRAW", "@SEED" or ""."""
        seed = self.generator_seed
        if self.draw:
            return f"@{self.draw}" if seed is None else f"@{self.draw}.{seed}"
        return f"@{seed}" if seed else ""


@section
class Draw:
    """Who is labeled, validated on and left without labels, in one of several draws.

    A patient that no split of the draw names keeps the split it was packed in, unless the draw
    names others for that split: then the patient is not used. Labels of patients that a draw moves
    to `style` are not read.
    """

    train: Texts = key((), "labeled patients; (): as packed", terse=True)
    val: Texts = key((), "validation patients; (): as packed", terse=True)
    style: Texts = key((), "patients without labels; (): as packed", terse=True)

    def split_of(self, patient: str, packed: str) -> str:
        """The split of a patient; "" where the draw does not use it.

        Args:
          patient: name. packed: the split in which it was packed.
        """
        if packed not in MOVABLE:
            return packed
        named = next((split for split in MOVABLE if patient in getattr(self, split)), "")
        return named or ("" if getattr(self, packed) else packed)

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        named = [patient for split in MOVABLE for patient in getattr(self, split)]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            yield f"{where} names {', '.join(twice)} more than once; give each patient one split."


@section
class Grid:
    """Draws of the labeled patients x seeds of the generators, crossed; segmentation.seeds crosses
    both."""

    draws: Mapping[str, Draw] = key({}, "name -> who is labeled; {}: the splits as packed")
    generator_seeds: Ints = nonnegative(
        (0,), "each generator is trained and sampled once for each", some=True
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if len(set(self.generator_seeds)) < len(self.generator_seeds):
            yield f"{where}.generator_seeds is {self.generator_seeds}, which has a seed twice."
        for name, draw in self.draws.items():
            if not re.fullmatch(r"[A-Za-z][\w-]*", name):
                yield (
                    f"{where}.draws has '{name}', which is no name; begin with a letter, and use "
                    "letters, digits, - and _."
                )
            yield from draw.problems(f"{where}.draws.{name}")

    @property
    def points(self) -> tuple[Point, ...]:
        """All of them, in order."""
        draws = tuple(self.draws) or ("",)
        return tuple(Point(draw, seed) for draw in draws for seed in self.generator_seeds)
