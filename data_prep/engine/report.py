"""What is told of a run: report.jsonl while it goes on, summary.md when it is over, and lines on
the screen."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from data_prep.engine.job import SlideReport
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
        """Adds a line; a run that is killed has it."""
        with self.path.open("a") as file:
            file.write(_line(report))

    def finish(self, reports: Sequence[SlideReport]) -> None:
        """Writes all lines anew."""
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        partial.write_text("".join(map(_line, reports)))
        partial.replace(self.path)


def keys_told(path: Path) -> list[str]:
    """The keys in a report.jsonl; none where it cannot be read."""
    try:
        return [str(json.loads(line)["key"]) for line in path.read_text().splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _line(report: SlideReport) -> str:
    return json.dumps(asdict(report)) + "\n"


def by_split(reports: Sequence[SlideReport], count: Callable[[SlideReport], int]) -> dict[str, int]:
    """Sums over the packed slides of each split, in the usual order."""
    sums: dict[str, int] = {}
    for split in SPLITS:
        packed = [report for report in reports if report.split == split and not report.error]
        if packed:
            sums[split] = sum(map(count, packed))
    return sums


def status_of(reports: Sequence[SlideReport]) -> int:
    """0: all packed; 1: some failed; 2: all failed, and the set holds nothing of them from before
    either."""
    failed = sum(bool(report.error) for report in reports)
    lost = sum(bool(report.error) and not report.stale for report in reports)
    return 0 if not failed else 1 if lost < len(reports) else 2


def _kept(report: SlideReport) -> str:
    return " The set keeps what an earlier run made of it." if report.stale else ""


def print_summary(reports: Sequence[SlideReport], out: str, folder: Path) -> None:
    """Tells on the screen what was packed, and on stderr what failed."""
    failed = [report for report in reports if report.error]
    packed = [report for report in reports if not report.error]
    for report in failed:
        print(f"failed: {report.key}: {report.error}{_kept(report)}", file=sys.stderr)
    if packed:
        tiles = by_split(reports, lambda report: report.tiles)
        listed = ", ".join(f"{split} {count}" for split, count in sorted(tiles.items()))
        unlabelled = sum(report.unlabelled for report in packed)
        print(
            f"{out}: {sum(tiles.values())} tiles of {len(packed)} slides ({listed}); left out {unlabelled} tiles "
            "without a label"
        )
        bare = [split for split in SPLITS if not tiles.get(split)]
        if bare:
            print(
                f"note: no tiles of {', '.join(bare)}; a whole run needs {', '.join(SPLITS)}",
                file=sys.stderr,
            )
    warned = [f"warning: {report.key}: {text}" for report in reports for text in report.warnings]
    for line in warned[:SHOWN]:
        print(line, file=sys.stderr)
    if len(warned) > SHOWN:
        print(
            f"and {len(warned) - SHOWN} more warnings, see {folder / 'summary.md'}", file=sys.stderr
        )
    if missing := sum(report.missing for report in packed):
        slides = sum(report.missing > 0 for report in packed)
        print(f"warning: {missing} tiles fewer than asked for, on {slides} slides", file=sys.stderr)
    notes = sum(len(report.left_out) for report in reports)
    if notes:
        print(
            f"{notes} notes (polygons mended or left out, and the like) are in {folder / 'summary.md'}",
            file=sys.stderr,
        )
    if failed:
        others = "The others are packed" if packed else "Nothing was packed"
        print(
            f"{len(failed)} of {len(reports)} slides failed; see {folder / 'report.jsonl'}. {others}; mend these and "
            "run the same command again: it packs only what is missing.",
            file=sys.stderr,
        )


def print_dry(reports: Sequence[SlideReport]) -> None:
    """A table of what would be packed."""
    columns = (
        "split",
        "size",
        "mpp",
        "says",
        "level",
        "grid",
        "tissue",
        "tiles",
        "polygons",
        "MB",
        "slide",
    )
    rows: list[tuple[str, ...]] = [columns]
    for report in reports:
        size = f"{report.size[0]}x{report.size[1]}"
        cells = [
            report.split,
            size,
            f"{report.mpp:.4g}",
            report.mpp_from or "-",
            report.level,
            report.grid,
            report.on_tissue,
            report.tiles,
            report.polygons,
            f"{report.bytes / 1e6:.1f}",
            report.key,
        ]
        rows.append(
            tuple(map(str, cells)) if not report.error else (report.split, *["-"] * 9, report.key)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        print(
            "  ".join(cell.rjust(wide) for cell, wide in zip(row[:-1], widths, strict=False)),
            row[-1],
            sep="  ",
        )
    for report in reports:
        for note in report.left_out:
            print(f"{report.key}: {note}")
        for text in report.warnings:
            print(f"warning: {report.key}: {text}", file=sys.stderr)
    for report in reports:
        if report.error:
            print(f"would fail: {report.key}: {report.error}", file=sys.stderr)
    total = sum(report.tiles for report in reports)
    print(
        f"dry run: {total} tiles, about {sum(report.bytes for report in reports) / 1e6:.0f} MB; nothing was written"
    )


def write_summary(
    path: Path,
    command: str,
    reports: Sequence[SlideReport],
    classes: Sequence[str],
    seconds: float,
    out: str,
) -> None:
    """Writes summary.md.

    Args:
      path: where to.
      command: what ran.
      reports: of all slides.
      classes: names by id.
      seconds: that the run took.
      out: the tile set.
    """
    failed = [report for report in reports if report.error]
    fresh = [report for report in reports if not report.error and not report.taken_over]
    tiles = sum(report.tiles for report in fresh)
    taken = sum(report.taken_over for report in reports)
    lines = [
        f"# {out}",
        "",
        f"`python -m {command}`: {len(reports) - len(failed)} of {len(reports)} packed.",
        "",
    ]
    lines += _splits(reports)
    lines += _classes(reports, classes)
    if any(report.kinds for report in reports):
        lines += _kinds(reports)
    lines += _microns(reports)
    lines += _failed(failed)
    lines += _listed(
        "Warnings: look into these", [(report.key, report.warnings) for report in reports]
    )
    lines += _listed(
        "Notes: polygons mended or left out, and the like",
        [(report.key, report.left_out) for report in reports],
    )
    lines += ["## Time", ""]
    speed = f", {tiles / seconds:.1f} tiles/s" if tiles and seconds else ""
    over = f"; {taken} slides taken over from before" if taken else ""
    lines += [f"{seconds:.0f} s for {tiles} tiles of {len(fresh)} slides{speed}{over}.", ""]
    slow = sorted((report for report in fresh), key=lambda report: -report.seconds)[:5]
    lines += [f"- {report.key}: {report.seconds:.1f} s, {report.tiles} tiles" for report in slow]
    lines += [
        "",
        "Pictures of tissue, annotation and tiles: [thumbnails](thumbnails/). All of it: report.jsonl.",
        "",
    ]
    path.write_text("\n".join(lines))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def _splits(reports: Sequence[SlideReport]) -> list[str]:
    rows = []
    for split in SPLITS:
        own = [report for report in reports if report.split == split]
        good = [report for report in own if not report.error]
        if own:
            patients = len({report.patient for report in good})
            counted = ("tiles", "unlabelled", "not_chosen", "missing")
            sums = (sum(getattr(report, name) for report in good) for name in counted)
            size = f"{sum(report.bytes for report in good) / 1e6:.1f}"
            rows.append([split, patients, len(good), len(own) - len(good), *sums, size])
    header = (
        "split",
        "patients",
        "slides",
        "failed",
        "tiles",
        "left out: no label",
        "not chosen",
        "too few",
        "MB",
    )
    then = ["Too few: tiles that --sample or --glass ask for and slides do not have.", ""]
    return ["## Splits", "", *_table(header, rows), *(then if any(row[-2] for row in rows) else [])]


def _classes(reports: Sequence[SlideReport], classes: Sequence[str]) -> list[str]:
    splits = [split for split in by_split(reports, lambda report: report.tiles) if split != "style"]
    if not splits:
        return []
    sums: dict[str, Mapping[str, int]] = {
        name: by_split(reports, lambda report, name=name: report.labelled_pixels.get(name, 0))
        for name in classes
    }
    totals = {split: max(sum(sums[name][split] for name in classes), 1) for split in splits}
    rows = []
    for name in classes:
        patients = {
            report.patient
            for report in reports
            if not report.error and report.labelled_pixels.get(name)
        }
        shares = [f"{100 * sums[name][split] / totals[split]:.1f} %" for split in splits]
        rows.append([name, len(patients), *shares])
    return [
        "## Classes, share of the labelled pixels",
        "",
        *_table(("class", "patients", *splits), rows),
    ]


def _microns(reports: Sequence[SlideReport]) -> list[str]:
    """Who said how large pixels are, where slides are concerned."""
    counts = Counter(
        (report.mpp_from, f"{report.mpp:.4g}")
        for report in reports
        if report.mpp_from and not report.error
    )
    if not counts:
        return []
    rows = [[mpp, who, count] for (who, mpp), count in sorted(counts.items())[:LISTED]]
    return ["## Microns per pixel", "", *_table(("level 0", "said by", "slides"), rows)]


def _kinds(reports: Sequence[SlideReport]) -> list[str]:
    kinds = sorted({kind for report in reports for kind in report.kinds})
    splits = list(by_split(reports, lambda report: report.tiles))
    rows = [
        [kind, *by_split(reports, lambda report, kind=kind: report.kinds.get(kind, 0)).values()]
        for kind in kinds
    ]
    return ["## Tiles by kind", "", *_table(("kind", *splits), rows)]


def _failed(failed: Sequence[SlideReport]) -> list[str]:
    if not failed:
        return []
    lines = [f"- {report.key}: {report.error}{_kept(report)}" for report in failed[:LISTED]]
    more = [f"- and {len(failed) - LISTED} more, see report.jsonl"] if len(failed) > LISTED else []
    then = "Mend these and run the same command again: it packs only what is missing."
    return ["## Failed", "", *lines, *more, "", then, ""]


def _listed(title: str, told: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A section of sentences, each with its slide; none where there is none."""
    lines = [f"- {key}: {sentence}" for key, sentences in told for sentence in sentences]
    if not lines:
        return []
    more = [f"- and {len(lines) - LISTED} more, see report.jsonl"] if len(lines) > LISTED else []
    return [f"## {title}", "", *lines[:LISTED], *more, ""]
