"""An experiment is a graph of cells, each a stage and perhaps a variant of it.

A cell says which settings change its result (`reads`) and which cells' results it uses (`needs`).
Both are hashed into its stamp, so whether a finished cell still holds follows from the settings
alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of_json
from stedm_jax.common.text import nearest
from stedm_jax.evaluation.synthesis_quality.versions import METRICS, OF_FEATURES
from stedm_jax.experiment.points import cell_name, name_at, point_of
from stedm_jax.settings.arm import Arm
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.flat import results_of
from stedm_jax.settings.grid import Point
from stedm_jax.settings.methods import GENERATOR, METHODS, ignored
from stedm_jax.settings.root import STAGES, Settings

TILES = "tiles"
STEPS = ".train.steps"
REMADE = ("quality", "report")
"""Stages that cost so little that a result which no longer holds is made again without a
question."""


@dataclass(frozen=True)
class Cell:
    """One result of an experiment.

    Attributes:
      stage: of STAGES.
      variant: which of the stage's cells; "" where a stage has one only.
      reads: dotted key -> value of every setting that changes the result.
      needs: names of the cells whose results it uses.
      after: names of cells that must have finished before it and change nothing in its result.
      point: where in the grid, as far as it matters to the cell.
    """

    stage: str
    variant: str = ""
    reads: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    point: Point = Point()

    @cached_property
    def name(self) -> str:
        """Its name, which is also its folder in the workdir: STAGE or STAGE/VARIANT, and a point of
        the grid."""
        return cell_name(self.stage, self.variant, self.point)

    @property
    def row(self) -> str:
        """Its name without its point and without the seed of an arm."""
        arm = self.variant.rpartition("/")[0] or self.variant
        return f"{self.stage}/{arm}" if arm else self.stage

    @property
    def remade(self) -> bool:
        """Whether it costs so little that it is made again without a question where it no longer
        holds."""
        return self.stage in REMADE or "choose" in self.reads

    @property
    def restores(self) -> tuple[str, ...]:
        """The cells whose checkpoints it may read, if they left any."""
        return () if self.stage == "report" or "choose" in self.reads else self.needs

    @property
    def everywhere(self) -> bool:
        """Whether it uses the results of the cells that it needs at all points of the grid."""
        return self.reads.get("choose_over") == "grid"

    @property
    def words(self) -> set[str]:
        """What --stage may call it: by its stage, by its name, or without point or seed."""
        return {
            self.stage,
            self.name,
            cell_name(self.stage, self.variant),
            self.row,
            f"{self.row}{self.point}",
        }


class Graph:
    """The cells of an experiment, in an order in which each stands after those that it needs.

    Args:
      settings: of the experiment.

    Attributes:
      cells: name -> every cell that the settings describe.
      goals: names of the cells of the stages that `settings.stages` names.
    """

    def __init__(self, settings: Settings):
        self.cells = {cell.name: cell for cell in _on_grid(settings)}
        self.goals = [name for name, cell in self.cells.items() if cell.stage in settings.stages]
        reads = results_of(settings.report, "report.") | {"title": settings.title}
        self.cells["report"] = Cell("report", reads=reads, needs=tuple(self.goals))
        if "report" in settings.stages:
            self.goals.append("report")
        self._stamps: dict[str, dict[str, str]] = {}

    def __getitem__(self, name: str) -> Cell:
        return self.cells[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells)

    def select(self, wanted: Sequence[str]) -> list[str]:
        """Names of the cells that some words ask for, in order: a stage, a cell by its name, or
        without point or seed all of that name.

        Raises:
          UserError: a word that names none.
        """
        words = {name: cell.words for name, cell in self.cells.items()}
        unknown = [word for word in wanted if not any(word in each for each in words.values())]
        if unknown:
            hint = " (now called generator)" if "diffusion" in unknown else ""
            cells = dict.fromkeys(cell_name(c.stage, c.variant) for c in self.cells.values())
            points = list(dict.fromkeys(str(c.point) for c in self.cells.values() if str(c.point)))
            more = f", all of these also at a point of the grid: {', '.join(points)}"
            raise UserError(
                f"--stage names {', '.join(unknown)}{hint}; valid are plan, the stages"
                f" {', '.join(STAGES)}, and the cells {', '.join(cells)}{more if points else ''}."
                f"{nearest(unknown[0], [*STAGES, *cells])}"
            )
        return [name for name, known in words.items() if known & set(wanted)]

    def before(self, name: str) -> set[str]:
        """The cells that must have finished before one, directly or not."""
        found: set[str] = set()
        todo = [*self[name].needs, *self[name].after]
        while todo:
            each = todo.pop()
            if each not in found:
                found.add(each)
                todo += [*self[each].needs, *self[each].after]
        return found

    def stamps(self, tiles: str) -> dict[str, str]:
        """Cell -> a hash of all that decides its result; under TILES the tiles' own fingerprint.

        Args:
          tiles: fingerprint of the tile set; "" before there is one.
        """
        if tiles in self._stamps:
            return self._stamps[tiles]
        out = self._stamps[tiles] = {TILES: tiles}
        for name, cell in self.cells.items():
            out[name] = sha256_of_json({"reads": cell.reads, "needs": needed(cell, out)})
        return out


def needed(cell: Cell, stamps: Mapping[str, str]) -> dict[str, str]:
    """The stamps that enter that of a cell."""
    found = {each: stamps[each] for each in cell.needs}
    return found | ({TILES: stamps[TILES]} if "data" in found else {})


def why_not_longer(
    cell: Cell, recorded: Mapping[str, Any], stamps: Mapping[str, str]
) -> str | None:
    """Why the training of a stale cell cannot go on with more steps: "" if it can, None if it
    differs in more than in these.

    Batches and noise are functions of (seed, step), so with a schedule that does not depend on the
    length the result is that of a training planned so long. Only the scores at the former end are
    additional: a best checkpoint may be that one.

    Args:
      cell: as it should be.
      recorded: its cell.json.
      stamps: that the cells should have.
    """
    before, now = recorded["reads"], cell.reads
    key = next((key for key in now if key.endswith(STEPS) and before.get(key) != now[key]), "")
    old = before.get(key, 0)
    if not key or not 0 < old < now[key]:
        return None
    reads = {**now, key: old}
    if sha256_of_json({"reads": reads, "needs": needed(cell, stamps)}) != recorded["stamp"]:
        return None
    optimizer = key.removesuffix("steps") + "optimizer."
    if cell.stage == "ssl":
        return "the schedules of its teacher span all steps"
    if now[f"{optimizer}schedule"] != "constant" or now[f"{optimizer}weight_decay_end"]:
        return f"config.{optimizer}schedule and weight_decay_end span all steps"
    return "its then_real counts from the end" if now.get("then_real") else ""


def _on_grid(settings: Settings) -> Iterator[Cell]:
    """Every cell but the report, at every point of the grid where it is another one."""
    cells, seen = list(_cells(settings)), set[str]()
    for last in (False, True):  # what needs cells of all points stands after these
        for point in settings.grid.points:
            for cell in cells:
                placed = _at(settings, cell, point)
                if cell.everywhere == last and placed.name not in seen:
                    seen.add(placed.name)
                    yield placed


def _at(settings: Settings, cell: Cell, point: Point) -> Cell:
    """A cell at a point of the grid."""
    mine, reads = point_of(settings, cell.stage, cell.variant, point), dict(cell.reads)
    if mine.draw:
        reads |= results_of(settings.grid.draws[mine.draw], "grid.draw.")
    if mine.generator_seed and cell.stage in ("generator", "synthesis"):
        reads["grid.generator_seed"] = mine.generator_seed
    points = settings.grid.points if cell.everywhere else (point,)
    found = (name_at(settings, name, each) for each in points for name in cell.needs)
    needs = tuple(dict.fromkeys(found))
    after = tuple(name_at(settings, name, point) for name in cell.after)
    return replace(cell, reads=reads, needs=needs, after=after, point=mine)


def _read(section: Any, name: str, *left_out: str) -> dict[str, Any]:
    """What changes results in a section, without some of its keys."""
    skipped = tuple(f"{name}.{key}" for key in left_out)
    reads = results_of(section, f"{name}.")
    return {key: value for key, value in reads.items() if not _begins(key, skipped)}


def _begins(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _cells(settings: Settings) -> Iterator[Cell]:
    """Every cell but the report, as without a grid."""
    data = results_of(settings.data, "data.")
    made_by = {key: data.pop(key) for key in ("data.tiles", "data.prepare")}
    base = {"seed": settings.seed, "dtype": settings.dtype} | data
    yield Cell("data", reads=made_by)
    first = results_of(settings.autoencoder, "autoencoder.")
    yield Cell("autoencoder", reads=base | first, needs=("data",))
    yield Cell("latents", reads=base | _latents(settings), needs=("data", "autoencoder"))
    yield Cell("ssl", reads=base | results_of(settings.ssl, "ssl."), needs=("data",))
    yield _guided(settings, base)
    judge = _segmenter(settings, JUDGE, settings.segmentation.seeds[0])
    yield Cell("judge", reads=base | judge, needs=("data",))
    for name in settings.diffusion.generators:
        yield _generator(settings, name, base)
    for name in settings.synthesis.sets:
        yield _synthesis(settings, name, base)
    for name in settings.synthesis.sets:
        needs = ("data", f"synthesis/{name}", "judge")
        yield Cell("quality", name, {"metrics": METRICS} | _compared(settings), needs)
    arms, seeds = settings.segmentation.arms, settings.segmentation.seeds
    for seed in seeds:
        yield from (_arm(settings, name, seed, base) for name in arms if not arms[name].choose)
    for seed in seeds:
        yield from (_choice(settings, name, seed) for name in arms if arms[name].choose)


def _compared(settings: Settings) -> dict[str, Any]:
    """What features of synthesis sets depend on; nothing where none are compared."""
    report = settings.report
    if not report.features:
        return {}
    keys = {"report.features": report.features, "report.lpips": report.lpips}
    return {"comparisons": OF_FEATURES} | keys


def _latents(settings: Settings) -> dict[str, Any]:
    if not settings.latents.cache:
        used = ("cache", "scale", "each", "tiles")
        return {f"latents.{key}": getattr(settings.latents, key) for key in used}
    diffusion = settings.diffusion
    return results_of(settings.latents, "latents.") | {
        "diffusion.splits": dict(diffusion.splits),
        "diffusion.stain_jitter": diffusion.stain_jitter,
        "diffusion.evaluated": bool(diffusion.train.eval_every),
    }


def _guided(settings: Settings, base: Mapping[str, Any]) -> Cell:
    reads = dict(base) | results_of(settings.guided, "guided.")
    if settings.guided.cache:
        stored = results_of(settings.latents, "latents.")
        kept = ("latents.variants", "latents.copies", "latents.dtype")
        reads |= {key: stored[key] for key in kept}
    guide = ("ssl",) if settings.guided.guide.source == "ssl" else ()
    return Cell("guided", reads=reads, needs=("data", "autoencoder", "latents", *guide))


def _generator(settings: Settings, name: str, base: Mapping[str, Any]) -> Cell:
    diffusion = settings.generator(name)
    reads = _read(diffusion, "diffusion", "generators")
    if diffusion.style.source == "nearby":  # which meant nearby_grid in version 0.1
        reads["nearby"] = "any place"
    watched = diffusion.watch.judge and diffusion.train.visual_every
    taught = (JUDGE,) if diffusion.judge.used else ()
    needs = ("data", "autoencoder", "latents", *taught)
    after = (JUDGE,) if watched and not taught else ()
    return Cell("generator", name, dict(base) | reads, needs, after)


def _synthesis(settings: Settings, name: str, base: Mapping[str, Any]) -> Cell:
    """A set without a generator needs only what its method needs."""
    entry = settings.synthesis.sets[name]
    reads = dict(base) | _read(
        settings.synthesis_set(name), "synthesis", "sets", *ignored(entry.method)
    )
    reads["method"] = entry.method
    reads["grid"] = {"layouts": settings.report.layouts, "styles": settings.report.styles}
    stages = METHODS[entry.method].needs
    if GENERATOR not in stages:
        style = settings.style_of(name)
        reads["style"] = {key: getattr(style, key) for key in ("source", "scope", "tiles")}
        if style.as_published_code:
            reads["style"]["as_published_code"] = True
    needs = [f"{each}/{entry.generator}" if each == GENERATOR else each for each in stages]
    if GENERATOR in stages and (weaker := settings.synthesis_set(name).guidance.weaker_generator):
        needs.append(f"{GENERATOR}/{weaker}")
    return Cell("synthesis", name, reads, ("data", *needs))


def _segmenter(settings: Settings, name: str, seed: int) -> dict[str, Any]:
    """What an arm's segmenter depends on; of a head the network below it, of a network no head."""
    arm = settings.arm_entry(name)
    others = ("model",) if arm.is_head else ("features", "head")
    reads = _read(settings.arm(name), "segmentation", "arms", "judge", "seeds", *others)
    reads |= {"network": arm.network, "stain_jitter": arm.stain_jitter, "seed_of_arm": seed}
    return reads | ({} if arm.splits == Arm.splits else {"splits": arm.real_shares})


def _choice(settings: Settings, name: str, seed: int) -> Cell:
    """An arm that takes one of others, by what all of their seeds score; or scores one again."""
    arm, seeds = settings.arm_entry(name), settings.segmentation.seeds
    if arm.normalize:
        reads = {"choose": arm.choose, "normalize": arm.normalize}
        needs = ("data", f"segmentation/{arm.choose[0]}/{seed}")
        return Cell("segmentation", f"{name}/{seed}", reads, needs)
    reads = {"choose": arm.choose, "choose_over": arm.choose_over, "seed_of_arm": seed}
    needs = tuple(f"segmentation/{each}/{one}" for each in arm.choose for one in seeds)
    return Cell("segmentation", f"{name}/{seed}", reads, needs)


def _arm(settings: Settings, name: str, seed: int, base: Mapping[str, Any]) -> Cell:
    arm, needs = settings.arm_entry(name), ["data"]
    reads = dict(base) | _segmenter(settings, name, seed) | {"real": arm.real}
    sets = settings.sets_of(name)
    reads |= {"sets": sets} if len(sets) > 1 else {}
    reads |= {"then_real": arm.then_real} if arm.then_real else {}
    reads |= {"reject": arm.reject} if arm.reject else {}
    needs += [f"synthesis/{each}" for each in sets] + ([JUDGE] if arm.reject else [])
    if arm.is_head:
        needs += ["autoencoder", "latents", "guided"]
        needs += ["ssl"] if settings.guided.guide.source == "ssl" else []
    return Cell("segmentation", f"{name}/{seed}", reads, tuple(needs))
