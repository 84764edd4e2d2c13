"""What comes of images: masks, outlines, lines of the report, scores."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of_json, write_json, write_text
from stedm_jax.common.text import percent, table
from stedm_jax.data.whole import WholeSet
from stedm_jax.evaluation import whole_scores as scores
from stedm_jax.evaluation.csv_text import to_csv
from stedm_jax.evaluation.object_scores import ObjectSums
from stedm_jax.evaluation.objects import to_objects
from stedm_jax.experiment.held_out import check_held_out, names_of, seen
from stedm_jax.imaging.label_file import read_mask
from stedm_jax.inference import outputs
from stedm_jax.inference.image_files import MapKeeper, check_size, write_files
from stedm_jax.inference.items import Item
from stedm_jax.inference.make_objects import Amount, Segmented
from stedm_jax.inference.planes import room_for
from stedm_jax.inference.read_ahead import Clock
from stedm_jax.inference.report_lines import Line
from stedm_jax.inference.seen_stain import colors_of, warnings_of
from stedm_jax.inference.segment import Rules, Truth, part_of, segment
from stedm_jax.inference.slides_page import areas, page
from stedm_jax.inference.trained_segmenter import Segmenter
from stedm_jax.inference.view import View, view_image, view_slide

VERSION = 2
"""Of what is made of an image; another one makes the images of earlier reports anew."""


class Results:
    """Segments images one by one and writes what comes of them.

    Raises:
      UserError: options that do not fit, or patients that were learned from.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        items: list[Item],
        whole: WholeSet | None,
        segmenter: Segmenter,
    ):
        self.args, self.whole, self.segmenter = args, whole, segmenter
        self.kinds = tuple(kind for kind in args.write if kind in outputs.KINDS)
        self.rules = Rules(
            args.overlap, args.margin, args.batch, args.least, args.hole, not args.everywhere
        )
        self.rules.patches(segmenter)  # refuses what does not fit before anything runs
        if args.least and len(segmenter.foreground) == len(segmenter.names):
            raise UserError(
                f"--least={args.least:g} drops objects, and every class of this run is foreground: "
                "nothing says what their pixels would be. Leave it out."
            )
        self.truth = Truth(whole, segmenter) if whole else None
        self.seen = segmenter.seen()
        if self.seen is None:
            print("How far stains are from those of the training tiles is not known.", flush=True)
        self._check_seen(items)
        self.scores: list[scores.ImageScores] = []
        self.lines: list[Mapping[str, Any]] = []
        self.kept: dict[str, Amount] = {}
        self.dropped: dict[str, Amount] = {}

    def _check_seen(self, items: list[Item]) -> None:
        """Refuses to score patients that were learned from, or says that they were, or that it is
        not known.

        Raises:
          UserError: there are such, and --allow_seen is not given.
        """
        args, learnt = self.args, self.segmenter.learnt
        if args.truth and not args.table:
            print(
                "Nothing says whose images these are: each counts as a patient of its own, and "
                "that none was learned from is not checked. --table=CSV with the columns image and "
                "patient says it.",
                flush=True,
            )
        elif self.whole and not args.allow_seen:
            try:
                check_held_out(learnt, self.whole, args.splits.split(","))
            except UserError as error:
                raise UserError(
                    f"{error} To score them all the same, as not held out, give --allow_seen."
                ) from error
        elif self.whole or args.truth:
            rows = [item.row for item in items if item.row]
            found = seen(learnt, names_of(rows) if rows else {item.patient for item in items})
            if found and not args.allow_seen:
                raise UserError(
                    f"Images are of patients that were learned from: {found}. To score them all "
                    "the same, as not held out, give --allow_seen."
                )
            if found:
                print(f"not held out, their scores are no evidence: {found}", flush=True)

    def made_with(self, item: Item) -> str:
        """A checksum of all that decides what comes of an image: its file, truth and settings.

        Raises:
          OSError: a file is gone.
        """
        chosen = (
            "region",
            "overlap",
            "margin",
            "least",
            "hole",
            "simplify",
            "qupath",
            "everywhere",
        )
        stats = [path.stat() for path in (item.path, item.truth) if path]
        about = {
            "version": VERSION,
            "segmenter": self.segmenter.identity,
            "mpp": item.mpp,
            "options": [
                *(getattr(self.args, name) for name in chosen),
                self.args.everywhere,
                self.kinds,
            ],
            "files": [(each.st_size, each.st_mtime_ns) for each in stats],
            "row": [*item.row.checksums, *sorted(item.row.tags.items())] if item.row else None,
            "names": [item.patient, item.part, self.args.part],
        }
        return sha256_of_json(about)[:16]

    def are_there(self, item: Item) -> bool:
        """Whether the files of an image are."""
        paths = outputs.outputs_of(self.args.out, item.name, self.kinds)
        return all(outputs.is_ours(path) for path in paths.values())

    def open(self, item: Item) -> View:
        """Opens an image and, of a slide, finds its tissue; on a thread, ahead of the network.

        Raises:
          UserError: it is unusable, or too large.
        """
        outputs.check_length(self.args.out, item.name, self.kinds)
        view = self._view(item)
        try:
            check_size(self.args, view)
            found = view.tissue(self.segmenter.tile) if view.tissue else None
            view = replace(view, tissue=(lambda tile: found) if found else None)
        except BaseException:
            view.close()
            raise
        return view

    def distances(self, view: View) -> dict[str, Any]:
        """How far an image is from what the segmenter has seen.

        Raises:
          UserError: a damaged slide.
        """
        one, side = self.segmenter, self.segmenter.tile
        tissue = view.tissue(side) if view.tissue else None
        grid = [-(-each // side) for each in view.picture.shape]
        cells = tissue.cells(side) if tissue else np.ones(grid, bool)
        colors = colors_of(view.picture, cells, side) if self.seen else None
        distance = None if colors is None or not self.seen else self.seen.distance(colors)
        enlarged = max((view.own_mpp or view.mpp) / one.mpp, 1.0)
        return {
            "stain_distance": distance,
            "enlarged": enlarged,
            "warnings": warnings_of(distance, enlarged),
        }

    def run(self, item: Item, view: View) -> Line:
        """Segments, writes, scores; what is reported of it. Closes the view.

        Raises:
          UserError: the image or its truth are unusable.
        """
        one, size = self.segmenter, view.size
        clock = Clock(item.name if item.is_slide else "", self.rules.batch)
        folder = self.args.out / item.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with room_for(folder, size[0] * size[1]) as allocate:
            try:
                far = self.distances(view)
                maps = MapKeeper(one, self.kinds, size, allocate)
                found = segment(one, view, self.rules, maps.take, allocate, clock)
                seconds = clock.seconds
                paths = outputs.outputs_of(self.args.out, item.name, self.kinds)
                write_files(paths, self.args, one, view, found, maps, allocate)
            finally:
                view.close()
            line = self._line(item, view, found) | far
            if item.row or item.truth:
                score = self._score(item, found)
                sums = [np.asarray(each).item() for each in astuple(score.objects)]
                line |= score.objects.scores()
                line["counts"] = {"confusion": score.confusion.tolist(), "objects": sums}
        times = {"network": seconds - clock.waited, "waited": clock.waited}
        times["written"] = clock.seconds - seconds
        return line | {"seconds": {name: round(each, 2) for name, each in times.items()}}

    def _line(self, item: Item, view: View, found: Segmented) -> Line:
        """What is reported of an image beside its scores."""
        height, width = view.size
        names = self.segmenter.names
        line: Line = {
            "image": item.name,
            "objects": len(found.boxes),
            "size": [width, height],
            "mpp": view.mpp,
            "kept": {names[k]: asdict(each) for k, each in found.kept.items()},
            "dropped": {names[k]: asdict(each) for k, each in found.dropped.items()},
            "filled_um2": found.filled,
            "mm2": {name: um2 / 1e6 for name, um2 in zip(names, found.um2, strict=True)},
        }
        if found.tissue:
            line |= {"pen": found.tissue.pen, "blur": found.tissue.blur}
        if view.beside:
            line["other_pictures"] = [list(size) for size in view.beside]
        return line

    def _view(self, item: Item) -> View:
        wanted = self.segmenter.mpp
        if item.is_slide:
            return view_slide(item.path, item.mpp, wanted, self.args.region)
        path = self.whole.file(item.row) if self.whole and item.row else item.path
        return view_image(path, item.mpp or wanted, wanted)

    def _score(self, item: Item, found: Segmented) -> scores.ImageScores:
        if self.truth and item.row:
            return self.truth.score(item.row, found, self.args.part)
        assert item.truth is not None
        known, foreground = len(self.segmenter.names), self.segmenter.foreground
        mask, own_mask = read_mask(item.truth, range(known)), found.mask[:]
        if mask.shape != own_mask.shape:
            truth, own = ("{} x {}".format(*each.shape[::-1]) for each in (mask, own_mask))
            raise UserError(f"The mask {item.truth} is {truth} pixels, what was segmented {own}.")
        return scores.score_image(
            (item.name, item.patient, item.part),
            mask,
            own_mask,
            found.objects[:],
            classes=known,
            foreground=foreground,
            true_objects=to_objects(np.isin(mask, foreground)),
        )

    def take(self, item: Item, line: Mapping[str, Any]) -> None:
        """Counts what the line of an image says into the scores and amounts of all."""
        self.lines.append(line)
        for totals, own in ((self.kept, line["kept"]), (self.dropped, line["dropped"])):
            for name, amount in own.items():
                totals[name] = totals.get(name, Amount()) + Amount(**amount)
        if counts := line.get("counts"):
            part = part_of(item.row, self.args.part) if item.row else item.part
            sums = ObjectSums(*counts["objects"])
            confusion = np.array(counts["confusion"], np.int64)
            self.scores.append(scores.ImageScores(item.name, item.patient, part, confusion, sums))

    def amounts(self) -> str:
        """What was kept and dropped of each class, as a table of text."""
        least = f"smaller than --least={self.args.least:g} um2"
        rows: list[list[str]] = [["class", "objects", "um2", "dropped", "um2 dropped", "of all"]]
        for name, kept in self.kept.items():
            lost = self.dropped.get(name, Amount())
            share = lost.um2 / (kept.um2 + lost.um2) if lost.objects else 0.0
            numbers = [f"{kept.objects:,}", f"{kept.um2:,.0f}", f"{lost.objects:,}"]
            rows.append([name, *numbers, f"{lost.um2:,.0f}", percent(share)])
        dropped = sum(each.objects for each in self.dropped.values())
        said = f"{dropped:,} objects were dropped, {least}" if dropped else "no object was dropped"
        return f"{table(rows)}\n{said}"

    def finish(self) -> str:
        """Writes what is about all images; a table of the scores, "" where there are none."""
        colors = dict(zip(self.segmenter.names, self.segmenter.colors, strict=True))
        if "csv" in self.args.write:
            write_text(self.args.out / outputs.AREAS, to_csv(areas(self.lines)))
        if "page" in self.args.write:
            write_text(self.args.out / outputs.PAGE, page(self.lines, colors))
        if not self.scores:
            return ""
        names = self.segmenter.names
        images, patients, summary = (self.args.out / name for name in outputs.TABLES)
        found = scores.summary(self.scores, names)
        write_text(images, to_csv(scores.by_image(self.scores, names)))
        write_text(patients, to_csv(scores.by_patient(self.scores, names)))
        write_json(summary, found)
        alone = (
            "" if self.whole or self.args.table else "\nEach image counts as a patient of its own."
        )
        return f"{scores.summary_table(found)}{alone}"
