"""A trained generator of a run, ready to make images of any layouts and styles.

Image number n is a pure function of the seed, n, its layout and its style tiles.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Below, Learned
from stedm_jax.experiment.sampler import make_sampler
from stedm_jax.experiment.saved import check_made_with
from stedm_jax.experiment.segmenters import about_tiles
from stedm_jax.settings.section_reader import changed, refuse
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training.sharding import own_rows, to_global

Masks = UInt8[np.ndarray, "n h w"]
Images = UInt8[np.ndarray, "n h w 3"]
Bag = UInt8[np.ndarray, "_ _ _ 3"]
"""Style tiles of one patient; how many is free, their size is that of all."""
OF_SETS = (
    *("count", "styles", "layouts", "shares", "augment_layouts", "min_labelled"),
    *("recolor", "confidence", "adain", "codec"),
)
"""Keys of config.synthesis that say of what a set is made, and what becomes of its images."""


@dataclass(frozen=True)
class Generator:
    """A trained generator.

    Attributes:
      context: of the run, at the generator's point of the grid.
      name: of its cell, without the stage.
      below, params: its task with what lies frozen below, and its parameters.
      section: how its images are sampled.
      provenance: which parameters these are.
      samplers: compiled, by seed and `mix`.
    """

    context: Context
    name: str
    below: Below[Any]
    params: Any
    section: Synthesis
    provenance: Mapping[str, str]
    samplers: dict[tuple[int, float], Any] = field(default_factory=dict, repr=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of layouts; the position is the number in masks."""
        return tuple(about_tiles(self.context)["classes"])

    @property
    def styles(self) -> int:
        """How many style tiles it looks at."""
        return self.below.task.config.style.tiles

    def images(
        self,
        masks: Masks,
        styles: Sequence[Bag],
        *,
        seed: int = 0,
        first: int = 0,
        tiles: Images | None = None,
        second: Sequence[Bag] | None = None,
        mix: float = 0.0,
    ) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Images of layouts, one by one, in batches of `section.batch`.

        Args:
          masks: layouts, class numbers or VOID; sides are multiples of the first stage's factor.
          styles: for each layout style tiles of one patient, at least one; as many as the generator
            looks at are drawn, and repeated where there are fewer.
          seed: of all that is random.
          first: number of the first image; image n is the same in any division into calls.
          tiles: images of the layouts to start from, where section.start is "tile".
          second: style tiles of a second patient for each layout, whose style vector counts by
            `mix`: v = (1 - mix) v_1 + mix v_2.

        Raises:
          UserError: arrays of other sizes, an unknown class, or images that are not finite.
        """
        self._check(masks, styles)
        self._check_start(tiles)
        size = min(self.section.batch, len(masks))
        size += -size % self.context.mesh.size
        sampler = self._sampler(seed, mix if second else 0.0)
        for start in range(0, len(masks), size):
            numbers = np.minimum(np.arange(start, start + size), len(masks) - 1)
            numbers = numbers[own_rows(size, self.context.mesh)]
            batch = {
                "mask": masks[numbers],
                "styles": np.stack([self._bag(styles[n], seed, first + int(n)) for n in numbers]),
                "index": (first + numbers).astype(np.uint32),
            }
            if second and mix:
                bags = [self._bag(second[n], seed, first + int(n)) for n in numbers]
                batch["styles"] = np.concatenate([batch["styles"], np.stack(bags)], axis=1)
            if tiles is not None:
                batch["tile"] = tiles[numbers]
            made, finite = sampler(
                self.params, self.below.frozen, to_global(batch, self.context.mesh)
            )
            if not np.all(finite):
                raise UserError(
                    f"The generator '{self.name}' makes images that are not finite; a large "
                    f"guidance.scale overflows (it is {self.section.guidance.scale:g})."
                )
            yield from np.asarray(made)[: len(masks) - start]

    def _sampler(self, seed: int, mix: float) -> Any:
        """The compiled sampler of a seed; with `mix`, bags hold the tiles of both patients."""
        if (seed, mix) not in self.samplers:
            task = self.below.task
            if mix:
                task = _of_two(task, self.styles, mix)
            sampler = make_sampler(task, self.section, seed, self.context.mesh)
            self.samplers[seed, mix] = sampler
        return self.samplers[seed, mix]

    def _bag(self, tiles: Bag, seed: int, number: int) -> Bag:
        """The style tiles that image `number` looks at."""
        rng = np.random.default_rng((seed, number))
        count = self.styles
        return tiles[rng.choice(len(tiles), count, replace=len(tiles) < count)]

    def _check(self, masks: np.ndarray, styles: Sequence[np.ndarray]) -> None:
        factor, shape = self.below.task.factor, masks.shape[1:]
        if not len(masks) or shape[0] != shape[1] or shape[0] % factor:
            raise UserError(
                f"The layouts have the shape {masks.shape}; give some, square, whose side is a "
                f"multiple of {factor}, the factor of the first stage."
            )
        known = [*range(len(self.classes)), VOID]
        if len(unknown := np.setdiff1d(masks, known)):
            raise UserError(
                f"The layouts have the class numbers {unknown.tolist()}; those of this run are "
                f"{', '.join(f'{n} {each}' for n, each in enumerate(self.classes))}, and {VOID} is "
                "unlabeled."
            )
        if len(styles) != len(masks) or not all(map(len, styles)):
            raise UserError(
                f"There are {len(masks)} layouts, and styles for {sum(map(bool, map(len, styles)))}"
                "; give one group of style tiles for each layout, with at least one tile."
            )

    def _check_start(self, tiles: np.ndarray | None) -> None:
        if self.section.inverts:
            raise UserError(
                "config.synthesis.start is 'inversion', which reads style tiles of the patients "
                "whom the layouts are of, and only the stage synthesis has them; choose 'noise'."
            )
        if self.section.reads_tile and tiles is None:
            raise UserError(
                f"config.synthesis.start is '{self.section.start}', and there are no tiles to "
                "start from; choose 'noise', with strength=1."
            )


def _of_two(task: Any, count: int, mix: float) -> Any:
    """The same task for bags of `count` tiles each of two patients, whose styles are mixed."""
    whole, task = task.style_vector, copy(task)

    def of_both(params: Any, frozen: Any, bags: Any) -> Any:
        one = whole(params, frozen, bags[:, :count])
        return mixed(one, whole(params, frozen, bags[:, count:]), mix)

    task.style_vector = of_both
    if task.weaker is not None:
        task.weaker = _of_two(task.weaker, count, mix)
    return task


def generators_of(context: Context) -> dict[str, Cell]:
    """The trained generators of a run: name, as "stedm" or on a grid "stedm@four-a.0" -> cell."""
    cells = Graph(context.settings).cells.values()
    return {
        f"{cell.variant}{cell.point}": cell
        for cell in cells
        if cell.stage == "generator" and context.workdir.result(cell.name) is not None
    }


def load_generator(
    context: Context, name: str = "", changes: Mapping[str, Any] = MappingProxyType({})
) -> Generator:
    """A trained generator of a run, such as `experiment.saved.open_run` opens.

    Args:
      context: of the run.
      name: of the generator, or of one at a point of the grid (as "stedm@four-a.0"); "": the first.
      changes: of keys of config.synthesis, as {"steps": 32, "guidance.scale": 2.0}. Sampling is
        otherwise as in the first set of the generator, but starts from noise.

    Raises:
      UserError: no such generator, not trained, made with other settings, or a wrong change.
    """
    there = generators_of(context)
    named = [each for each, cell in there.items() if name in ("", each, cell.variant)]
    if not named:
        listed = ", ".join(there) or "none"
        asked = f"generator '{name}'" if name else "generator"
        raise UserError(
            f"{context.workdir.path} has no trained {asked}; trained are: {listed}. Train one with "
            "python -m stedm_jax.main --stage=generator, or choose another one."
        )
    cell = there[named[0]]
    check_made_with(context.workdir, context.settings, cell.name)
    context = context.at(cell.point)
    section = _section_of(context, cell.variant)
    who = f"synthesis by '{named[0]}'"
    if useless := [key for key in changes if key.split(".")[0] in OF_SETS]:
        raise UserError(
            f"The {who} changes '{useless[0]}', which only the sets of a run have; leave it out."
        )
    section = changed(section, "synthesis", changes.items(), who, ("sets",))
    refuse(section.start_problems("config.synthesis"))
    below, params, origin = Learned(context).generator(cell.variant, section)
    return Generator(context, named[0], below, params, section, origin)


def synthesize(
    run: Context,
    masks: Masks,
    styles: Sequence[Bag],
    *,
    generator: str = "",
    seed: int = 0,
    tiles: Images | None = None,
    strength: float | None = None,
    guidance: float | None = None,
    steps: int | None = None,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Images of layouts in styles, one by one.

    >>> for image in synthesize(open_run(folder), masks, styles, guidance=2.0, steps=32): ...

    Args:
      run: of `experiment.saved.open_run`.
      masks, styles, seed, tiles: as `Generator.images` takes them.
      generator: as `load_generator` takes it.
      strength: share of the noise levels, where sampling starts from `tiles`.
      guidance: its scale.
      steps: of the sampler.

    Raises:
      UserError: as these.
    """
    given = {"strength": strength, "guidance.scale": guidance, "steps": steps}
    changes = {key: value for key, value in given.items() if value is not None}
    if tiles is not None:
        changes["start"] = "tile"
    made = load_generator(run, generator, changes)
    yield from made.images(masks, styles, seed=seed, tiles=tiles)


def _section_of(context: Context, generator: str) -> Synthesis:
    """How the first set of a generator is sampled, from noise alone; without a set as
    config.synthesis."""
    settings = context.settings
    sets = [n for n, entry in settings.synthesis.sets.items() if entry.generator == generator]
    section = settings.synthesis_set(sets[0]) if sets else settings.synthesis
    return replace(section, start="noise", strength=1.0, keep_detail=False, match="none")


def mixed(one: Any, other: Any, share: float | Array) -> Any:
    """A style between two, vectors or tokens: `share` of the other one."""

    def between(a: Array, b: Array) -> Array:
        return a if a.dtype == bool else ((1 - share) * a + share * b).astype(a.dtype)

    return jax.tree.map(between, one, other)
