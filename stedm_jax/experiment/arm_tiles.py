"""The tiles that an arm learns from, and how they are mixed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import grain
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.index import IndexRow
from stedm_jax.data.normalized import normalized
from stedm_jax.data.pipeline import Source, TileReader, tile_dataset
from stedm_jax.data.records import TileSet
from stedm_jax.data.rejected import Rejected, believed
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.data.stain import Unfit
from stedm_jax.experiment.context import Context, spread
from stedm_jax.settings.arm_networks import JUDGE

MEASURED = 256
"""Most tiles by which a stain is measured."""


@dataclass(frozen=True)
class Rows:
    """Tiles with where to read them."""

    reader: TileReader
    rows: list[IndexRow]

    @property
    def patients(self) -> list[str]:
        """Names, in the order in which patients are numbered."""
        return sorted({row.patient for row in self.rows})


def real_rows(context: Context) -> dict[str, Rows]:
    """The tiles of the validation and test patients."""
    return {split: Rows(context.reader, context.rows(split)) for split in ("val", "test")}


def normalized_rows(context: Context, name: str) -> dict[str, Rows]:
    """The tiles of the validation and test patients in the stain of the real tiles that an arm
    learns from, as its `normalize` says.

    Raises:
      UserError: those show no stain.
    """
    arm, real = context.settings.arm_entry(name), real_rows(context)
    shares = context.settings.arm_entry(arm.choose[0]).real_shares
    target = [row for split in shares for row in context.labelled_rows(split)]

    def sample(rows: list[IndexRow]) -> np.ndarray:
        return np.concatenate([context.reader.read(row)[0] for row in spread(rows, MEASURED)])

    samples = {
        patient: sample([row for row in rows.rows if row.patient == patient])
        for rows in real.values()
        for patient in rows.patients
    }
    try:
        reader = normalized(context.reader, arm.normalize, samples, sample(target))
    except Unfit:
        raise UserError(
            f"config.segmentation.arms.{name}.normalize is '{arm.normalize}', but the labeled "
            f"tiles of {', '.join(shares)} show no stain; take the arm out."
        ) from None
    return {split: Rows(reader, rows.rows) for split, rows in real.items()}


def synthetic_rows(context: Context, name: str) -> Rows:
    """The tiles of a synthesis set."""
    key = "synthetic", name
    if key not in context.memo:
        tiles = TileSet.open(context.workdir.path / context.cell(f"synthesis/{name}") / "tiles")
        reader = context.read(tiles, np.arange(256, dtype=np.uint8))
        context.memo[key] = Rows(reader, tiles.index(SYNTHETIC))
    return context.memo[key]


def learned_patients(context: Context, name: str) -> set[str]:
    """The patients that an arm learns from: of its real tiles, of the layouts and styles of its
    synthetic ones, and of the split train in any case."""
    settings = context.settings
    found = set(context.tiles.patients("train"))
    for split in settings.arm_entry(name).real_shares:
        found |= set(context.tiles.patients(split))
    for each in settings.sets_of(name):
        for row in synthetic_rows(context, each).rows:
            found |= {row.patient, row.style_patient}
    return found


def check_labelled(context: Context, name: str) -> None:
    """Refuses an arm that is to learn from a split without labels.

    Raises:
      UserError: names the arm and the split.
    """
    for split in context.settings.arm_entry(name).real_shares:
        if not any(row.labelled for row in context.labelled_rows(split)):
            where = "judge" if name == JUDGE else f"arms.{name}"
            raise UserError(
                f"config.segmentation.{where}.splits names '{split}', and the tiles in "
                f"{context.tiles.path} have no labels there. Take it out, or prepare tiles in "
                "which these patients are annotated."
            )


def arm_dataset(
    context: Context,
    name: str,
    seed: int,
    around: bool = False,
    rejected: Mapping[str, Rejected] | None = None,
) -> tuple[grain.MapDataset, list[Source]]:
    """The endless training tiles of an arm, and where they come from: real tiles, then synthetic
    ones, at their shares of a batch.

    Args:
      context: of the run.
      name: of the arm; "judge" is one.
      seed: of order and augmentation.
      around: tiles come with the field around them.
      rejected: set -> pixels whose labels are not learned.

    Raises:
      UserError: a split without labels or without tiles.
    """
    settings = context.settings
    arm, train = settings.arm_entry(name), settings.arm(name).train
    sources, real = _sources(context, name, around, rejected or {})
    then = None
    if arm.then_real:
        begin = (train.steps - arm.then_real) * train.batch
        then = begin, real
    return tile_dataset(sources, seed=seed, jitter=arm.stain_jitter, then=then), sources


def _sources(
    context: Context, name: str, around: bool, rejected: Mapping[str, Rejected]
) -> tuple[list[Source], list[float]]:
    """The sources of an arm, and their weights where real tiles alone are drawn."""
    settings = context.settings
    arm, sources = settings.arm_entry(name), []
    check_labelled(context, name)
    if arm.real or arm.then_real:
        sources = context.sources(arm.real_shares, around=around, labelled=True)
    alone = [source.weight for source in sources]
    sources = [replace(source, weight=source.weight * arm.real) for source in sources]
    for each, share in settings.sets_of(name).items():
        made = synthetic_rows(context, each)
        doubt = rejected.get(each)
        reader = believed(made.reader, doubt) if doubt else made.reader
        sources.append(Source(reader, made.rows, (1.0 - arm.real) * share, around=around))
        alone.append(0.0)
    return sources, alone
