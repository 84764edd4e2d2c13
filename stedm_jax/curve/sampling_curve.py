"""The curve: scores and seconds of every sampler at several numbers of evaluations.

All rows have the same layouts, styles and noise, so that they differ in nothing but the sampler.
The first row is sampled as published (DDIM, 143 of 1000 levels), and the second likewise from other
noise: what differs between these two is chance, and no smaller difference means anything. The third
is sampled as the set is configured.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.curve.scored_images import Images, Scorer
from stedm_jax.diffusion.samplers import SAMPLERS
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encoders import cell_encoder, open_encoder
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.orders import Order, Orders, load
from stedm_jax.experiment.sampler import make_sampler
from stedm_jax.experiment.saved import check_made_with
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training.sharding import to_global

PUBLISHED, REPEATED, CONFIGURED = "as published", "other noise", "as configured"
PUBLISHED_STEPS = 128


@dataclass(frozen=True)
class Row:
    """One sampler at one number of steps.

    Attributes:
      row: what it is.
      sampler, spacing: keys of config.synthesis.
      evaluations: of the network along the way, for a sample without guidance.
      with_guidance: the same with the other predictions that guidance needs.
      seconds: for an image, with decoding, in the fastest batch.
      distance: root mean square difference to the images of the first row, of 255.
    """

    row: str
    sampler: str
    spacing: str
    evaluations: int
    with_guidance: int
    seconds: float
    distance: float
    layout_iou: float
    style_error: float
    kid: float
    kid_low: float
    kid_high: float


def chosen_set(context: Context, name: str) -> tuple[Context, str]:
    """A set that a generator makes, and the run at its point of the grid.

    Args:
      context: of the run.
      name: of the set, or of one at a point of the grid (as "recolored@four-a.0"); "": any.
        Where several have the name, the first whose generator is trained.

    Raises:
      UserError: there is none of that name.
    """
    settings = context.settings
    sets = {
        f"{cell.variant}{cell.point}": cell
        for cell in Graph(settings).cells.values()
        if cell.stage == "synthesis" and settings.synthesis.sets[cell.variant].generator
    }
    named = [cell for each, cell in sets.items() if name in ("", each, cell.variant)]
    if not named:
        raise UserError(
            f"--set={name}: {context.workdir.path} has no such set that a generator makes, but "
            f"{', '.join(sets) or 'none'}."
        )

    def untrained(cell: Cell) -> bool:
        generator = f"generator/{settings.synthesis.sets[cell.variant].generator}"
        return context.workdir.result(context.at(cell.point).cell(generator)) is None

    chosen = min(named, key=untrained)
    return context.at(chosen.point), chosen.variant


def variants(section: Synthesis, samplers: Sequence[str], counts: Sequence[int]) -> list[Synthesis]:
    """Sections with each sampler at each number of evaluations; of heun half as many steps."""
    found = []
    for count in counts:
        for sampler in samplers:
            steps = (count + 1) // 2 if sampler == "heun" else count
            found.append(_alone(section, sampler, steps, "uniform_lambda"))
    return found


def _alone(section: Synthesis, sampler: str, steps: int, spacing: str) -> Synthesis:
    """The section with another sampler, without the keys that not every sampler has."""
    bare = replace(section, tail=(), eta=0.0, as_published_code=False)
    return replace(bare, sampler=sampler, steps=steps, spacing=spacing)


def curve(
    context: Context,
    name: str,
    samplers: Sequence[str] = tuple(SAMPLERS),
    counts: Sequence[int] = (6, 12, 24, 48),
    images: int = 64,
    features: str = JUDGE,
) -> Iterator[Row]:
    """The rows, as they are measured.

    Args:
      context: a run with a generator and a judge.
      name: of the set.
      samplers, counts: what is compared.
      images: of each row.
      features: source of the encoder for the kernel distance.

    Raises:
      UserError: something has not been trained, or with other settings.
    """
    settings, learned = context.settings, Learned(context)
    section, entry = settings.synthesis_set(name), settings.synthesis.sets[name]
    learned.need(JUDGE)
    for cell in (f"generator/{entry.generator}", JUDGE):
        check_made_with(context.workdir, settings, context.cell(cell))
    below, params, _ = learned.generator(entry.generator, section)
    orders = _orders(context, name, images)
    judge = Graph(settings)[context.cell(JUDGE)]
    key = "--features"
    encoder = (
        cell_encoder(context, judge, key) if features == JUDGE else open_encoder(features, key)
    )
    masks = load(context.reader, orders, replace(section, start="noise"))["mask"]
    scorer = Scorer(context, learned, orders, masks, section.styles, encoder)
    first, task = np.zeros(0), below.task

    def sampled(section: Synthesis, seed: int) -> tuple[Images, float]:
        sampler = make_sampler(task, section, seed, context.mesh)
        return _sampled(
            context, orders, section, lambda batch: sampler(params, below.frozen, batch)
        )

    def row(what: str, section: Synthesis, made: Images, seconds: float) -> Row:
        seen = task.evaluated(section)
        guided = task.guidance(section).evaluations(seen, task.schedule.steps)
        scores = asdict(scorer(made))
        away = float(np.sqrt(np.mean((made.astype(np.float32) - first) ** 2)))
        given = section.sampler, section.spacing, len(seen), guided
        return Row(what, *given, seconds, away, **scores)

    published = _alone(section, "ddim", PUBLISHED_STEPS, "uniform_stride")
    first, seconds = sampled(published, context.seed)
    yield row(PUBLISHED, published, first, seconds)
    yield row(REPEATED, published, *sampled(published, context.seed + 1))
    yield row(CONFIGURED, section, *sampled(section, context.seed))
    for each in variants(section, samplers, counts):
        yield row("", each, *sampled(each, context.seed))


def _orders(context: Context, name: str, images: int) -> list[Order]:
    settings = context.settings
    orders = Orders(context, settings.synthesis_set(name), settings.style_of(name))
    return [orders[number] for number in range(images)]


def _sampled(
    context: Context, orders: Sequence[Order], section: Synthesis, run: Callable[[Any], Any]
) -> tuple[Images, float]:
    """Images, and seconds for each in the fastest batch.

    Raises:
      UserError: some are not finite.
    """
    size = min(section.batch, len(orders))
    size += -size % context.mesh.size
    found, seconds = [], list[float]()
    for start in range(0, len(orders), size):
        part = list(orders[start : start + size])
        batch = load(context.reader, part + part[:1] * (size - len(part)), section)
        batch = to_global(batch, context.mesh)
        if not found:
            jax.block_until_ready(run(batch))  # compiles
        before = time.perf_counter()
        made, finite = jax.block_until_ready(run(batch))
        seconds.append(time.perf_counter() - before)
        if not np.all(finite):
            raise UserError(
                f"{section.sampler} with {section.steps} steps makes images that are not finite; "
                "leave it out (--samplers), or lower guidance.scale."
            )
        found.append(np.asarray(made)[: len(part)])
    return np.concatenate(found), min(seconds) / size
