"""Looks a tile set over before training: what is in it, whether it is whole, and whether it leaks.

    python -m data_prep.inspect DIR [--out=REPORT]

DIR is a tile set: a folder, or a URL such as s3://bucket/tiles. The report has counts by split,
patient, slide, kind and class, microns, and tags such as the scanner; checksums are verified. It
looks for patients in two splits or under two spellings, slides of two patients, equal or nearly
equal tiles across splits and patients, places of val and test that would count twice, and empty
splits and classes. REPORT gets summary.txt, counts.csv, report.json and contact_sheet.png.

Exit status: 0 nothing found; 1 something to look into; 2 damaged, or no tile set.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from data_prep.command import Progress, make_parser, run_command
from data_prep.inspection.counts import (
    Count,
    Key,
    all_rows,
    count_by,
    tags_by_slide,
    write_counts,
)
from data_prep.inspection.leaks import Finding, find_leaks, patients_in_two_splits
from data_prep.inspection.look import look
from data_prep.inspection.sheet import draw_sheet
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_bytes, write_json, write_text
from stedm_jax.common.text import table
from stedm_jax.data.index import IndexRow, read_index
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import fetch, is_remote
from stedm_jax.data.schema import SCHEMA_VERSION

LOOKED_AT = 4096
"""Tiles whose pixels are read, unless --deep."""
PAIRS_COMPARED = 1000
"""Overlapping pairs whose masks are read, unless --deep."""
PATIENTS_LISTED = 60


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("inspect", __doc__)
    add = parser.option
    parser.add_argument("tiles", metavar="DIR", help="the tile set: a folder, or a URL")
    add("out", None, "folder of the report (DIR-inspect; for a URL, here)", type=Path)
    add("deep", False, f"look at the pixels of all tiles, not of {LOOKED_AT} spread over the set")
    add("columns", 8, "tiles in a row of the contact sheet (8)")
    add("workers", min(os.cpu_count() or 1, 8), "threads that decode (number of cores)", type=int)
    args = parser.parse_args(argv)
    if not 1 <= args.columns <= 40 or not 1 <= args.workers <= 256:
        raise UserError(
            f"--columns={args.columns} must be 1 to 40 and --workers={args.workers} 1 to 256."
        )
    return args


def open_tiles(place: str) -> TileSet:
    """Opens a tile set, even one that shares patients between splits, which training refuses.

    Raises:
      UserError: no tile set, or a damaged one.
    """
    path = fetch(place) if is_remote(place) else Path(place)
    try:
        return TileSet.open(path)
    except UserError:
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            leaks = patients_in_two_splits(manifest["patients"])
            if manifest["schema"] == SCHEMA_VERSION and leaks:
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
    manifest, rows, side = tiles.manifest, all_rows(tiles), tiles.tile * tiles.mpp
    area, names = tiles.tile**2, [spec.name for spec in tiles.classes]

    def count(key: Callable[[IndexRow], Key]) -> dict[Key, Count]:
        return count_by(rows, key, len(names))

    out = [
        f"{manifest['name']}: {len(rows):,} tiles of {tiles.tile} px and a margin of "
        f"{tiles.margin} px, {tiles.mpp:g} um a pixel ({side:,.0f} um a side), {manifest['codec']}",
        f"written by {manifest['written_by']}, schema {manifest['schema']}, in {tiles.path}",
    ]
    source = {name: text for name, text in manifest["source"].items() if text not in ("", "None")}
    out += [f"  {name}: {str(text)[:100]}" for name, text in source.items()]
    head = ["slides", "tiles", "labeled", *names]
    lines = [
        [*key, c.patients, c.slides, f"{c.tiles:,}", *c.shares(area)]
        for key, c in count(lambda row: (row.split,)).items()
    ]
    out += ["", table([["split", "patients", *head], *lines])]
    out += ["(labeled: share of all pixels; a class: share of what is labeled)", ""]
    lines = [
        [*key, c.slides, f"{c.tiles:,}", *c.shares(area)]
        for key, c in count(lambda row: (row.split, row.patient)).items()
    ]
    out.append(table([["split", "patient", *head], *lines[:PATIENTS_LISTED]], words=2))
    if len(lines) > PATIENTS_LISTED:
        out.append(f"and {len(lines) - PATIENTS_LISTED} more patients; counts.csv has all")
    if any(row.kind for row in rows):
        kinds = count(lambda row: (row.split, row.kind or "(grid)"))
        lines = [[*key, f"{c.tiles:,}"] for key, c in kinds.items()]
        out += ["", table([["split", "kind", "tiles"], *lines], words=2)]
    for name, values in tags_by_slide(tiles).items():
        if len(values) <= 20:
            texts = [f"{value or '(none)'} {n}" for value, n in values.most_common()]
            out.append(f"slides by {name}: {', '.join(texts)}")
    return out


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
    progress, looks = Progress("tiles", len(chosen), "tiles"), []
    for each in look(tiles, chosen, args.workers):
        looks.append(each)
        progress.update(len(looks))
    most = sys.maxsize if args.deep else PAIRS_COMPARED
    findings, pairs = find_leaks(tiles, looks, most)
    lines = [
        *describe(tiles),
        "",
        f"checksums: {files} files verified",
        f"pixels: {len(looks):,} of {len(rows):,} tiles compared"
        + ("" if len(looks) == len(rows) else "; --deep: all"),
        f"overlapping pairs in val and test: {pairs:,}, masks of {min(pairs, most):,} compared",
        *(f"warning: {finding}" for finding in findings),
        f"{len(findings)} things to look into" if findings else "nothing to look into",
    ]
    out = args.out or Path(f"{tiles.path.name if is_remote(args.tiles) else tiles.path}-inspect")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "summary.txt", "\n".join(lines) + "\n")
    write_json(out / "report.json", _report(tiles, findings, len(looks)))
    write_counts(out / "counts.csv", tiles)
    sheet = cv2.cvtColor(draw_sheet(tiles, args.columns), cv2.COLOR_RGB2BGR)
    write_bytes(out / "contact_sheet.png", cv2.imencode(".png", sheet)[1].tobytes())
    return [*lines, f"report: {out}"], findings


def _report(tiles: TileSet, findings: Sequence[Finding], looked_at: int) -> dict[str, Any]:
    names = [spec.name for spec in tiles.classes]
    counts = count_by(all_rows(tiles), lambda row: (row.split,), len(names))
    return {
        "tiles": str(tiles.path),
        "fingerprint": tiles.fingerprint,
        "looked_at": looked_at,
        "splits": {
            split: asdict(count) | {"pixels": dict(zip(names, count.pixels, strict=True))}
            for (split,), count in counts.items()
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
