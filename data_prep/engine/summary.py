"""What is reported of a run: report.jsonl while it goes on, summary.md when it is over, and lines
on the screen."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.engine.job import SlideReport
from stedm_jax.common.files import write_text
from stedm_jax.common.text import table
from stedm_jax.data.schema import SPLITS

SHOWN = 10
"""Most warnings on the screen; summary.md has more."""
LISTED = 200
"""Most lines of a list in summary.md; report.jsonl has all."""


class ReportFile:
    """report.jsonl: a line a slide, added as they finish, in the order of the table when all are
    done."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def add(self, report: SlideReport) -> None:
        """Adds a line at once, so that it stays if the run is killed."""
        with self.path.open("a") as file:
            file.write(_line(report))

    def finish(self, reports: Sequence[SlideReport]) -> None:
        """Writes all lines anew."""
        write_text(self.path, "".join(map(_line, reports)))


def keys_in(path: Path) -> list[str]:
    """The keys in a report.jsonl; none where it cannot be read."""
    try:
        return [str(json.loads(line)["key"]) for line in path.read_text().splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _line(report: SlideReport) -> str:
    return json.dumps(asdict(report)) + "\n"


def status_of(reports: Sequence[SlideReport]) -> int:
    """0: all packed; 1: some failed; 2: all failed, and the set holds nothing of them from before
    either."""
    failed = [report for report in reports if report.error]
    lost = sum(not report.stale for report in failed)
    return 0 if not failed else 1 if lost < len(reports) else 2


def _failures(reports: Sequence[SlideReport]) -> list[str]:
    kept = " The set keeps what an earlier run made of it."
    return [
        f"{report.key}: {report.error}{kept if report.stale else ''}"
        for report in reports
        if report.error
    ]


def _note(line: str) -> None:
    print(line, file=sys.stderr)


def print_summary(reports: Sequence[SlideReport], out: str, folder: Path) -> None:
    """Prints what was packed, and on stderr what failed or needs a look."""
    failures, summary = _failures(reports), folder / "summary.md"
    packed = [report for report in reports if not report.error]
    for line in failures:
        _note(f"failed: {line}")
    if packed:
        tiles = Counter()
        for report in packed:
            tiles[report.split] += report.tiles
        listed = ", ".join(f"{split} {count}" for split, count in sorted(tiles.items()))
        unlabeled = sum(report.unlabelled for report in packed)
        print(
            f"{out}: {tiles.total()} tiles of {len(packed)} slides ({listed}); left out "
            f"{unlabeled} tiles without a label"
        )
        if bare := [split for split in SPLITS if not tiles[split]]:
            _note(f"note: no tiles of {', '.join(bare)}; a whole run needs {', '.join(SPLITS)}")
    warnings = [f"warning: {report.key}: {text}" for report in reports for text in report.warnings]
    for line in warnings[:SHOWN]:
        _note(line)
    if len(warnings) > SHOWN:
        _note(f"and {len(warnings) - SHOWN} more warnings, see {summary}")
    if missing := sum(report.missing for report in packed):
        slides = sum(report.missing > 0 for report in packed)
        _note(f"warning: {missing} tiles fewer than asked for, on {slides} slides")
    if notes := sum(len(report.left_out) for report in reports):
        _note(f"{notes} notes (polygons repaired or left out, and the like) are in {summary}")
    if failures:
        others = "The others are packed" if packed else "Nothing was packed"
        _note(
            f"{len(failures)} of {len(reports)} slides failed; see {folder / 'report.jsonl'}. "
            f"{others}; fix these and run the same command again: it packs only what is missing."
        )


def print_dry(reports: Sequence[SlideReport]) -> None:
    """A table of what would be packed."""
    columns = "split size mpp from level grid tissue tiles polygons MB slide"
    rows: list[Sequence[object]] = [columns.split()]
    for report in reports:
        cells = [
            f"{report.size[0]}x{report.size[1]}",
            f"{report.mpp:.4g}",
            report.mpp_from or "-",
            report.level,
            report.grid,
            report.on_tissue,
            report.tiles,
            report.polygons,
            f"{report.bytes / 1e6:.1f}",
        ]
        cells = ["-"] * len(cells) if report.error else cells
        rows.append([report.split, *cells, report.key])
    print(table(rows))
    for report in reports:
        for note in report.left_out:
            print(f"{report.key}: {note}")
        for text in report.warnings:
            _note(f"warning: {report.key}: {text}")
    for line in _failures(reports):
        _note(f"would fail: {line}")
    tiles = sum(report.tiles for report in reports)
    size = sum(report.bytes for report in reports) / 1e6
    print(f"dry run: {tiles} tiles, about {size:.0f} MB; nothing was written")


class _Split:
    """The slides of a split, as summary.md counts them."""

    def __init__(self, name: str, reports: Sequence[SlideReport]):
        self.name = name
        own = [report for report in reports if report.split == name]
        self.packed = [report for report in own if not report.error]
        self.failed = len(own) - len(self.packed)
        self.patients = len({report.patient for report in self.packed})
        self.pixels, self.kinds = Counter(), Counter()
        for report in self.packed:
            self.pixels.update(report.labelled_pixels)
            self.kinds.update(report.kinds)


def write_summary(
    path: Path,
    command: str,
    reports: Sequence[SlideReport],
    classes: Sequence[str],
    seconds: float,
    out: str,
) -> None:
    """Writes summary.md by its template.

    Args:
      path: where to.
      command: what ran.
      reports: of all slides.
      classes: names by id.
      seconds: that the run took.
      out: the tile set.
    """
    splits = [_Split(name, reports) for name in SPLITS]
    packed = [report for report in reports if not report.error]
    seen = {
        name: {report.patient for report in packed if report.labelled_pixels.get(name)}
        for name in classes
    }
    microns = Counter(
        (report.mpp_from, f"{report.mpp:.4g}") for report in packed if report.mpp_from
    )
    environment = Environment(
        loader=PackageLoader("data_prep.engine"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    text = environment.get_template("summary.md").render(
        out=out,
        command=command,
        reports=reports,
        splits=[split for split in splits if split.packed or split.failed],
        classes={name: len(patients) for name, patients in seen.items()},
        kinds=sorted({kind for split in splits for kind in split.kinds}),
        microns=sorted(microns.items()),
        failures=_failures(reports),
        warnings=[f"{report.key}: {text}" for report in reports for text in report.warnings],
        notes=[f"{report.key}: {text}" for report in reports for text in report.left_out],
        fresh=[report for report in packed if not report.taken_over],
        taken=sum(report.taken_over for report in reports),
        seconds=seconds,
        most=LISTED,
    )
    path.write_text(text + "\n")
