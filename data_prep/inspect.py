"""Looks a tile set over before anyone trains on it: what is in it, whether it is whole, and whether
it leaks.

    python -m data_prep.inspect DIR [--out=REPORT]

DIR is a tile set: a folder, or a URL such as s3://bucket/tiles. Told are counts by split, patient,
  slide, kind and
class, microns, tags such as the scanner, and checksums. Looked for are patients in two splits or
under two spellings, slides of two patients, equal or nearly equal tiles across splits and patients,
places of val and test that would count twice, empty splits and classes. REPORT gets summary.txt,
counts.csv, report.json and contact_sheet.png.

Exit status: 0 nothing amiss; 1 something to look into; 2 damaged, or no tile set.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from data_prep.command import Parser, Progress, run_command
from data_prep.inspection.counts import (
    all_rows,
    count_by,
    shares,
    table,
    tags_by_slide,
    write_counts,
)
from data_prep.inspection.leaks import (
    Finding,
    counted_twice,
    lacking,
    names_alike,
    patients_in_two_splits,
    people_in_two_splits,
    same_tiles,
    shared_slides,
)
from data_prep.inspection.look import Look, look
from data_prep.inspection.sheet import draw_sheet
from stedm_jax.common.errors import UserError
from stedm_jax.data.index import IndexRow, read_index
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import fetch, is_remote
from stedm_jax.data.schema import SCHEMA_VERSION

LOOKED_AT = 4096
"""Tiles whose pixels are read, unless --deep."""
PAIRS_COMPARED = 1000
"""Overlapping pairs whose masks are read, unless --deep."""
PATIENTS_TOLD = 60


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    about = (__doc__ or "").split("\n\n")
    parser = Parser(
        prog="python -m data_prep.inspect",
        description=about[0],
        epilog="\n\n".join(about[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tiles", metavar="DIR", help="the tile set: a folder, or a URL")
    add("--out", type=Path, help="folder of the report (DIR-inspect; for a URL, here)")
    add(
        "--deep",
        action="store_true",
        help=f"look at the pixels of all tiles, not of {LOOKED_AT} spread over the set",
    )
    add("--columns", type=int, default=8, help="tiles in a row of the contact sheet (8)")
    add(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        help="threads that decode (number of cores)",
    )
    args = parser.parse_args(argv)
    if not 1 <= args.columns <= 40 or not 1 <= args.workers <= 256:
        raise UserError(
            f"--columns={args.columns} must be 1 to 40 and --workers={args.workers} 1 to 256."
        )
    return args


def open_tiles(place: str) -> TileSet:
    """Opens a tile set, one that shares patients between splits too, which training refuses.

    Raises:
      UserError: no tile set, or a damaged one.
    """
    path = fetch(place) if is_remote(place) else Path(place)
    try:
        return TileSet.open(path)
    except UserError:
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            if manifest["schema"] == SCHEMA_VERSION and patients_in_two_splits(
                manifest["patients"]
            ):
                return TileSet(path, manifest, read_index(path / "index.csv"))
        except (OSError, ValueError, KeyError):
            pass
        raise


def spread_rows(rows: Sequence[IndexRow], most: int) -> list[IndexRow]:
    """At most so many rows, evenly over the set."""
    step = max(1, -(-len(rows) // most))
    return list(rows[::step])


def describe(tiles: TileSet) -> list[str]:
    """What the set is, as lines of text."""
    manifest, rows = tiles.manifest, all_rows(tiles)
    names = [spec.name for spec in tiles.classes]
    side = tiles.tile * tiles.mpp
    out = [
        f"{manifest['name']}: {len(rows):,} tiles of {tiles.tile} px and a margin of {tiles.margin} px, "
        f"{tiles.mpp:g} um a pixel ({side:,.0f} um a side), {manifest['codec']}",
        f"written by {manifest['written_by']}, schema {manifest['schema']}, in {tiles.path}",
        *(
            f"  {key}: {str(value)[:100]}"
            for key, value in manifest["source"].items()
            if value not in ("", "None")
        ),
        "",
    ]
    head = ("split", "patients", "slides", "tiles", "labelled", *names)
    area, classes = tiles.tile**2, len(names)
    by_split = count_by(rows, lambda row: (row.split,), classes)
    out += table(
        head,
        [
            (*key, c.patients, c.slides, f"{c.tiles:,}", *shares(c, area))
            for key, c in by_split.items()
        ],
    )
    out += ["(labelled: of all pixels; a class: of what is labelled)", ""]
    by_patient = count_by(rows, lambda row: (row.split, row.patient), classes)
    told = list(by_patient.items())[:PATIENTS_TOLD]
    head = ("split", "patient", "slides", "tiles", "labelled", *names)
    out += table(
        head, [(*key, c.slides, f"{c.tiles:,}", *shares(c, area)) for key, c in told], left=2
    )
    if len(by_patient) > len(told):
        out.append(f"and {len(by_patient) - len(told)} more patients; counts.csv has all")
    if any(row.kind for row in rows):
        by_kind = count_by(rows, lambda row: (row.split, row.kind or "(grid)"), classes)
        out += [
            "",
            *table(
                ("split", "kind", "tiles"),
                [(*key, f"{c.tiles:,}") for key, c in by_kind.items()],
                left=2,
            ),
        ]
    for name, values in tags_by_slide(tiles).items():
        if len(values) <= 20:
            out.append(
                f"slides by {name}: "
                + ", ".join(f"{v or '(none)'} {n}" for v, n in values.most_common())
            )
    return out


def find(tiles: TileSet, looks: Sequence[Look], most_pairs: int) -> tuple[list[Finding], int]:
    """Everything to look into, and how many pairs of tiles of val or test overlap, of which
    most_pairs are compared."""
    rows = all_rows(tiles)
    twice, pairs = counted_twice(tiles, most_pairs)
    by_index = {split: [row.patient for row in tiles.index(split)] for split in tiles.splits}
    listed = {
        split: [*tiles.manifest["patients"].get(split, ()), *names]
        for split, names in by_index.items()
    }
    return [
        *patients_in_two_splits(listed),
        *people_in_two_splits(looks),
        *names_alike([row.patient for row in rows]),
        *shared_slides(rows),
        *same_tiles(looks),
        *twice,
        *lacking(tiles),
    ], pairs


def inspect(args: argparse.Namespace) -> tuple[list[str], list[Finding]]:
    """Looks a set over and writes the report.

    Returns:
      The lines of the summary, and what there is to look into.

    Raises:
      UserError: damaged, or no tile set.
    """
    tiles = open_tiles(args.tiles)
    tiles.verify()
    files = sum(len(shards) for shards in tiles.manifest["shards"].values()) + 1
    rows = all_rows(tiles)
    chosen = rows if args.deep else spread_rows(rows, LOOKED_AT)
    progress = Progress("tiles", len(chosen), "tiles")
    looks = []
    for each in look(tiles, chosen, args.workers):
        looks.append(each)
        progress.update(len(looks))
    most = sys.maxsize if args.deep else PAIRS_COMPARED
    findings, pairs = find(tiles, looks, most)
    out = args.out or Path(f"{tiles.path.name if is_remote(args.tiles) else tiles.path}-inspect")
    lines = [
        *describe(tiles),
        "",
        f"checksums: {files} files verified",
        f"pixels: {len(looks):,} of {len(rows):,} tiles compared"
        + ("" if len(looks) == len(rows) else "; --deep: all"),
        f"overlapping pairs in val and test: {pairs:,}, masks of {min(pairs, most):,} compared",
        *(f"warning: {finding}" for finding in findings),
        "nothing amiss" if not findings else f"{len(findings)} things to look into",
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.txt").write_text("\n".join(lines) + "\n")
    (out / "report.json").write_text(json.dumps(_report(tiles, findings, len(looks)), indent=1))
    write_counts(out / "counts.csv", tiles)
    sheet = out / "contact_sheet.png"
    if not cv2.imwrite(
        str(sheet), cv2.cvtColor(draw_sheet(tiles, args.columns), cv2.COLOR_RGB2BGR)
    ):
        raise UserError(f"{sheet} could not be written.")
    return [*lines, f"report: {out}"], findings


def _report(tiles: TileSet, findings: Sequence[Finding], looked_at: int) -> dict[str, Any]:
    names = [spec.name for spec in tiles.classes]
    return {
        "tiles": str(tiles.path),
        "fingerprint": tiles.fingerprint,
        "looked_at": looked_at,
        "splits": {
            split: {
                "patients": count.patients,
                "slides": count.slides,
                "tiles": count.tiles,
                "pixels": dict(zip(names, count.pixels, strict=True)),
            }
            for (split,), count in count_by(
                all_rows(tiles), lambda row: (row.split,), len(names)
            ).items()
        },
        "tags": {name: dict(values) for name, values in tags_by_slide(tiles).items()},
        "findings": [asdict(finding) for finding in findings],
    }


def main(argv: Sequence[str]) -> int:
    """The command."""
    lines, findings = inspect(parse_args(argv))
    print("\n".join(lines))
    return 1 if findings else 0


if __name__ == "__main__":
    run_command(main)
