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
from stedm_jax.common.text import percent, table
from stedm_jax.data.schema import SPLITS

SHOWN = 10
"""Most warnings on the screen; summary.md has more."""
LISTED = 200
"""Most lines of a list in summary.md; report.jsonl has all."""
FEW = 20
"""Slides up to which a dry run lists each."""


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

    def share(self, name: str) -> str:
        """The share of a class in what is labeled."""
        total = self.pixels.total()
        return percent(self.pixels[name] / total) if total else "-"


class Outcome:
    """What became of all slides of a run.

    Attributes:
      reports: of all slides, in the order of the table.
      packed: those of the packed ones.
      status: 0: all packed; 1: some failed; 2: all failed, and the set holds nothing of them from
        before either.
    """

    def __init__(self, reports: Sequence[SlideReport]):
        self.reports = reports
        self.packed = [report for report in reports if not report.error]
        kept = " The set keeps what an earlier run made of it."
        self._failures = [
            f"{report.key}: {report.error}{kept if report.stale else ''}"
            for report in reports
            if report.error
        ]
        self._warnings = [f"{each.key}: {text}" for each in reports for text in each.warnings]
        self._notes = [f"{each.key}: {text}" for each in reports for text in each.left_out]
        all_lost = all(report.error and not report.stale for report in reports)
        self.status = 0 if not self._failures else 2 if all_lost else 1

    def print_summary(self, out: str, folder: Path) -> None:
        """Prints what was packed, and on stderr what failed or needs a look."""
        summary, warnings = folder / "summary.md", self._warnings
        for line in self._failures:
            _note(f"failed: {line}")
        if self.packed:
            tiles = Counter()
            for report in self.packed:
                tiles[report.split] += report.tiles
            listed = ", ".join(f"{split} {count}" for split, count in sorted(tiles.items()))
            unlabeled = sum(report.unlabelled for report in self.packed)
            print(
                f"{out}: {tiles.total()} tiles of {len(self.packed)} slides ({listed}); left out "
                f"{unlabeled} tiles without a label"
            )
            if bare := [split for split in SPLITS if not tiles[split]]:
                _note(f"note: no tiles of {', '.join(bare)}; a whole run needs {', '.join(SPLITS)}")
        for line in warnings[:SHOWN]:
            _note(f"warning: {line}")
        if len(warnings) > SHOWN:
            _note(f"and {len(warnings) - SHOWN} more warnings, see {summary}")
        if missing := [report.missing for report in self.packed if report.missing]:
            tiles = sum(missing)
            _note(f"warning: {tiles} tiles fewer than asked for, on {len(missing)} slides")
        self._print_passed_over()
        if self._notes:
            count = len(self._notes)
            _note(f"{count} notes (polygons repaired or left out, and the like) are in {summary}")
        if self._failures:
            others = "The others are packed" if self.packed else "Nothing was packed"
            _note(
                f"{len(self._failures)} of {len(self.reports)} slides failed; see "
                f"{folder / 'report.jsonl'}. {others}; fix these and run the same command again: "
                "it packs only what is missing."
            )

    def _print_passed_over(self) -> None:
        passed = sum((Counter(report.passed_over) for report in self.reports), Counter())
        if passed:
            slides = sum(bool(report.passed_over) for report in self.reports)
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in passed.most_common())
            _note(
                f"note: passed over in the annotations of {slides} slides: {kinds}; only areas "
                "with a class are drawn, and of QuPath only annotations"
            )

    def print_dry(self, classes: Sequence[str]) -> None:
        """Prints what would be packed: totals by split and class, and of few slides each.

        Args:
          classes: names by id.
        """
        if len(self.reports) <= FEW:
            print(f"{self._each()}\n")
        print(self._totals(classes))
        said = [f"{count} of {mpp} ({source})" for (source, mpp), count in self._microns()]
        if said:
            more = f" and {len(said) - SHOWN} more values" if len(said) > SHOWN else ""
            print(f"slides by microns per pixel: {', '.join(said[:SHOWN])}{more}")
        self._print_passed_over()
        for what, lines, most in (
            ("note", self._notes, SHOWN),
            ("warning", self._warnings, SHOWN),
            ("would fail", self._failures, LISTED),
        ):
            for line in lines[:most]:
                _note(f"{what}: {line}")
            if len(lines) > most:
                _note(f"{what}: and {len(lines) - most} more like these")
        tiles = sum(report.tiles for report in self.reports)
        size = sum(report.bytes for report in self.reports) / 1e6
        print(f"dry run: {tiles} tiles, about {size:.0f} MB; nothing was written")

    def _totals(self, classes: Sequence[str]) -> str:
        head = ["split", "patients", "slides", "failed", "tiles", "MB", *classes]
        rows: list[Sequence[object]] = [head]
        for split in (_Split(name, self.reports) for name in SPLITS):
            if not split.packed and not split.failed:
                continue
            tiles = sum(report.tiles for report in split.packed)
            size = f"{sum(report.bytes for report in split.packed) / 1e6:.1f}"
            shares = [split.share(name) for name in classes]
            counts = [split.patients, len(split.packed), split.failed, f"{tiles:,}", size]
            rows.append([split.name, *counts, *shares])
        return table(rows)

    def _each(self) -> str:
        columns = "split size mpp from level grid tissue tiles polygons MB slide"
        rows: list[Sequence[object]] = [columns.split()]
        for report in self.reports:
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
        return table(rows)

    def _microns(self) -> list[tuple[tuple[str, str], int]]:
        """Who says how many microns a pixel has, and of how many slides."""
        said = [(each.mpp_from, f"{each.mpp:.4g}") for each in self.packed if each.mpp_from]
        return sorted(Counter(said).items())

    def write(
        self, path: Path, command: str, classes: Sequence[str], seconds: float, out: str
    ) -> None:
        """Writes summary.md by its template.

        Args:
          path: where to.
          command: what ran.
          classes: names by id.
          seconds: that the run took.
          out: the tile set.
        """
        splits = [_Split(name, self.reports) for name in SPLITS]
        seen = {
            name: {report.patient for report in self.packed if report.labelled_pixels.get(name)}
            for name in classes
        }
        environment = Environment(
            loader=PackageLoader("data_prep.engine"),
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        text = environment.get_template("summary.md").render(
            out=out,
            command=command,
            reports=self.reports,
            splits=[split for split in splits if split.packed or split.failed],
            classes={name: len(patients) for name, patients in seen.items()},
            kinds=sorted({kind for split in splits for kind in split.kinds}),
            microns=self._microns(),
            failures=self._failures,
            warnings=self._warnings,
            notes=self._notes,
            fresh=[report for report in self.packed if not report.taken_over],
            taken=sum(report.taken_over for report in self.reports),
            seconds=seconds,
            most=LISTED,
        )
        path.write_text(text + "\n")


def _note(line: str) -> None:
    print(line, file=sys.stderr)
