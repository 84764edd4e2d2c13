r"""How good sets of synthetic tiles are, beside real tiles of held-out patients.

    python -m stedm_jax.evaluate --synthesis RUN/synthesis/A/tiles --real data/tiles
    python -m stedm_jax.evaluate --synthesis A/tiles B/tiles --real data/tiles \
        --features inception-fid

Features are those of --features, else of Inception if its weights were converted, else of the judge
of the run that a set lies in. --features takes a converted folder, a name of the registry, the
folder of a cell of a run (judge, segmentation/ARM/SEED, generator/NAME), or a file .npz with an
array for `synthetic` and each split of --real, a row a record. docs/experiments.md explains the
numbers.
"""

import argparse
from pathlib import Path

import numpy as np

from stedm_jax.common.commands import command_parser
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_text
from stedm_jax.common.text import table
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SPLITS, SYNTHETIC
from stedm_jax.evaluate.set_judge import judge_above, judged, judging
from stedm_jax.evaluation.quality_table import NOTE, compared_rows
from stedm_jax.evaluation.synthesis_quality.compared import Distance
from stedm_jax.evaluation.synthesis_quality.measure import SHEET, measure, save_quality
from stedm_jax.evaluation.synthesis_quality.metric import Quality
from stedm_jax.experiment.encoders import INCEPTION, LPIPS, lpips, open_encoder
from stedm_jax.experiment.init_weights import source_folder
from stedm_jax.experiment.measured_set import (
    HELD_OUT,
    Computed,
    FromFile,
    Values,
    examples,
    features,
    style_tiles,
)

FEATURES = "--features"


def main(argv: list[str]) -> None:
    """Parses the command line, measures each set, and prints one table.

    Raises:
      UserError: for anything that the user can repair.
    """
    arguments = _parse(argv)
    real = TileSet.open(arguments.real)
    sets = {name: TileSet.open(path) for name, path in _names(arguments.synthesis).items()}
    for made in sets.values():
        _check(made, real)
    distance = _distance(arguments.lpips)
    found, encoders = {}, {}
    for name, made in sets.items():
        folder = arguments.out / name if len(sets) > 1 else arguments.out
        quality, encoders[name] = _measure(arguments, made, real, distance)
        folder.mkdir(parents=True, exist_ok=True)
        save_quality(folder, quality)
        found[name] = quality.numbers
    named = ", ".join(dict.fromkeys(encoders.values()))
    text = "\n".join([table(compared_rows(found), ruled=True), "", f"Features: {named}.", NOTE])
    write_text(arguments.out / "quality.txt", text + "\n")
    print(f"{text}\nNumbers, features and {SHEET}: {arguments.out}", flush=True)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("stedm_jax.evaluate", __doc__)
    add = parser.add_argument
    add("--synthesis", nargs="+", type=Path, required=True, metavar="DIR", help="sets to measure")
    add("--real", type=Path, required=True, metavar="DIR", help="the tiles they were made from")
    add(FEATURES, default="", metavar="SOURCE", help="encoder, or a file .npz")
    add("--lpips", default="", metavar="SOURCE", help=f"converted weights [{LPIPS} if converted]")
    add("--judge", type=Path, metavar="CELL", help="judge of the layouts [that of the run]")
    add("--held_out", nargs="+", default=list(HELD_OUT), choices=SPLITS, help="[val test]")
    add("--out", type=Path, default=Path("quality"), metavar="DIR", help="[quality]")
    return parser.parse_args(argv)


def _names(paths: list[Path]) -> dict[str, Path]:
    """What sets are called: their folder, or where that is called tiles, the one above."""
    names = [path.resolve().parent.name if path.name == "tiles" else path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"--synthesis names several sets called {', '.join(twice)}; measure them one by one."
        )
    return dict(zip(names, paths, strict=True))


def _check(made: TileSet, real: TileSet) -> None:
    """Refuses sets that cannot be compared.

    Raises:
      UserError: no synthetic tiles, no real ones, or others in size or resolution.
    """
    if not made.index(SYNTHETIC):
        raise UserError(
            f"{made.path} has no synthetic tiles (splits: {', '.join(made.splits) or 'none'}); "
            "name the folder tiles of a cell synthesis/NAME."
        )
    if not set(real.splits) & set(SPLITS):
        raise UserError(f"{real.path} has no real tiles; --real names the set that others are of.")
    for what, one, other in (("side", made.tile, real.tile), ("mpp", made.mpp, real.mpp)):
        if abs(one / other - 1) > 0.02:
            raise UserError(
                f"Tiles of {made.path} and {real.path} differ in {what}: {one:g} and {other:g}. "
                "Compare a set with the tiles it was made from."
            )
    first = made.read(SYNTHETIC, 0).provenance
    split, records = first.get("style_split", ""), first.get("style_records", "").split()
    rows = real.index(split)
    if not records or int(records[0]) >= len(rows):
        raise UserError(
            f"The tiles of {made.path} name no style tiles of {real.path} (style_split '{split}'); "
            "give the tiles that the set was made from."
        )
    if rows[int(records[0])].patient != first["style_patient"]:
        raise UserError(
            f"{made.path} was made from other tiles than {real.path}: record {records[0]} of "
            f"'{split}' is of patient {rows[int(records[0])].patient}, and was of "
            f"{first['style_patient']}."
        )


def _measure(
    arguments: argparse.Namespace, made: TileSet, real: TileSet, distance: Distance | None
) -> tuple[Quality, str]:
    """All numbers of a set, and whose features they are of."""
    judge = judging(arguments.judge or judge_above(made.path), made, real)
    values, name = _values(arguments, made)

    def read(row: IndexRow) -> np.ndarray:
        return real.read(row.split, row.record).image

    compared = features(
        made, real, read, values, name, held_out=arguments.held_out, distance=distance
    )
    rows = made.index(SYNTHETIC)
    split = made.read(SYNTHETIC, 0).provenance["style_split"]
    styles = style_tiles(rows, real.index(split), read, 0)
    judgment = judged(judge, made, real, compared)
    return measure(examples(made, real, read), judgment, styles), name


def _values(arguments: argparse.Namespace, made: TileSet) -> tuple[Values, str]:
    """Where features come from, and their name."""
    source = arguments.features
    if source.endswith(".npz"):
        return FromFile(Path(source)), source
    if not source:
        judge = judge_above(made.path)
        source = INCEPTION if judge is None or _converted(INCEPTION) else str(judge)
    encoder = open_encoder(source, FEATURES)
    return Computed(encoder, arguments.out / "features"), encoder.name


def _distance(source: str) -> Distance | None:
    if not source and not _converted(LPIPS):
        return None
    return lpips(source or LPIPS, "--lpips")


def _converted(name: str) -> bool:
    """Whether weights of the registry are where converted ones are sought."""
    try:
        source_folder(name)
    except UserError:
        return False
    return True
