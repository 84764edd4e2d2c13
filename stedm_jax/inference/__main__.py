"""Images, slides and folders to masks, with a segmenter of a run.

    python -m stedm_jax.inference --workdir=RUN --images=DIR --out=OUT [--arm=labelled] [--mpp=0.5]

Writes for each image NAME of DIR (or below it) into OUT
    NAME.png       class ids with the colors of the classes as palette: as large as the image; of a
                   slide at the resolution of the tiles that the segmenter learned from
    NAME.geojson   outlines of the objects in pixels of the file (of level 0) for QuPath, which
                   counts from the corner of what was scanned
    NAME_objects.png   with --objects: their numbers, 16 bits
and report.jsonl, a line an image. Hidden files and results of this command are no images, and
nothing is written over a file that is read, or that this command did not write.

DIR may be one file, or what --whole of data_prep makes: then the images of --splits are taken, and
images.csv, patients.csv and summary.json hold accuracy, IoU and Dice of classes and the GlaS
challenge's F1, Dice and Hausdorff distance of objects where these are numbered, by image, by
patient and by part of the test. Patients that the run has learned from are refused without
--allow_seen. --truth=DIR is a folder with masks of class ids of the same names instead; its objects
are areas of the foreground, and its patients are not known.

Exit status: 0 all images segmented; 1 some failed, the others are done; 2 nothing was done.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.common.commands import run_command
from stedm_jax.common.errors import UserError, explain
from stedm_jax.common.files import write_json, write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    about = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m stedm_jax.inference",
        description=about[0],
        epilog=about[1],
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="of the run that trained the segmenter")
    add("--images", type=Path, required=True, help="a folder, a file, or whole images with truth")
    add("--out", type=Path, required=True, help="folder of the results, made if need be")
    add("--arm", default="labelled", help="which segmenter of the run (labelled)")
    add("--seed", type=int, help="which of its trainings (the first)")
    add("--mpp", type=float, help="microns per pixel of images that do not say, as all but slides")
    region = "X,Y,WIDTH,HEIGHT in level-0 pixels of the whole file: only that of each slide"
    add("--region", default="", help=region)
    add("--truth", type=Path, help="folder with masks of class ids, NAME.png for each image")
    add("--splits", default="test", help="of whole images with truth (test)")
    seen = "score patients too whose tiles the run has learned from"
    add("--allow_seen", action="store_true", help=seen)
    part = "tag by which the scores of the test are divided (official_split)"
    add("--part", default="official_split", help=part)
    add("--overlap", type=float, default=0.25, help="of patches, as a share of their side (0.25)")
    margin = "outermost part of a patch that does not count (0.0625)"
    add("--margin", type=float, default=0.0625, help=margin)
    add("--batch", type=int, default=16, help="patches at once (16)")
    add("--least", type=float, default=100.0, help="square microns of the smallest object (100)")
    hole = "square microns of the largest hole that is filled (100)"
    add("--hole", type=float, default=100.0, help=hole)
    add("--objects", action="store_true", help="write the numbers of objects too")
    args = parser.parse_args(argv)
    _check(args)
    args.region = _region(args.region)
    return args


def _check(args: argparse.Namespace) -> None:
    from stedm_jax.imaging.microns import LEAST_MPP, MOST_MPP, believable

    if args.mpp is not None and not believable(args.mpp):
        raise UserError(
            f"--mpp={args.mpp:g} is no microscope's; give microns per pixel from {LEAST_MPP} to "
            f"{MOST_MPP:g}, such as 0.5."
        )
    if min(args.least, args.hole) < 0:
        raise UserError(
            f"--least={args.least:g} and --hole={args.hole:g} are areas; give 0 or more."
        )


def _region(text: str) -> tuple[int, int, int, int] | None:
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        numbers = ()
    if numbers is not None and len(numbers) != 4:
        raise UserError(f"--region={text} is not X,Y,WIDTH,HEIGHT in level-0 pixels.")
    return numbers


@dataclass(frozen=True)
class Item:
    """An image to be segmented: its name below OUT, its file, microns per pixel, and what scores
    it, if anything."""

    name: str
    path: Path
    mpp: float | None
    truth: Any = None


def list_items(args: argparse.Namespace) -> tuple[list[Item], Any]:
    """The images that the options name, and the set that they are of, if they are of one.

    Raises:
      UserError: there is none, or nothing says the microns per pixel.
    """
    from stedm_jax.data.whole import WholeSet
    from stedm_jax.imaging.find_images import find_images, is_slide

    if not args.images.exists():
        raise UserError(f"There is no {args.images}; --images is a folder or a file.")
    if WholeSet.is_one(args.images):
        if args.truth:
            raise UserError(f"{args.images} holds its truth already; leave out --truth.")
        whole, splits = WholeSet.open(args.images), args.splits.split(",")
        rows = [row for row in whole.images if row.split in splits]
        if not rows:
            there = ", ".join(sorted({row.split for row in whole.images}))
            raise UserError(
                f"{args.images} has no images of --splits={args.splits}; it has {there}."
            )
        return [Item(row.name, whole.path / row.image, row.mpp, row) for row in rows], whole
    root = args.images if args.images.is_dir() else args.images.parent
    items, paths = [], find_images(args.images)
    for path in paths:
        name = str(path.relative_to(root).with_suffix(""))
        items.append(Item(name, path, args.mpp, args.truth / f"{name}.png" if args.truth else None))
    silent = [path for path in paths if not is_slide(path)] if args.mpp is None else []
    if silent:
        raise UserError(
            f"{len(silent)} images such as {silent[0]} do not say their microns per pixel; give "
            "them: --mpp=0.5."
        )
    return items, None


def inputs_of(items: Sequence[Item], whole: Any) -> Iterator[Path]:
    """Every file that is read."""
    for item in items:
        yield item.path
        if whole:
            yield from (whole.path / each for each in (item.truth.mask, item.truth.instances))
        elif item.truth:
            yield item.truth
    if whole:
        yield from (whole.path / each for each in ("index.csv", "manifest.json"))


class Results:
    """Segments images one by one and writes what comes of them."""

    def __init__(self, args: argparse.Namespace, whole: Any):
        from stedm_jax.inference.segment import Rules, Truth
        from stedm_jax.inference.trained_segmenter import load_segmenter

        self.args, self.whole = args, whole
        self.segmenter = load_segmenter(args.workdir, args.arm, args.seed)
        self.rules = Rules(args.overlap, args.margin, args.batch, args.least, args.hole)
        self.rules.patches(self.segmenter)  # refuses what does not fit before anything runs
        self.truth = Truth(whole, self.segmenter) if whole else None
        self._check_seen()
        self.scores: list[Any] = []

    def _check_seen(self) -> None:
        """Refuses to score patients that were learned from, or says that they were, or that it is
        not known.

        Raises:
          UserError: there are such, and --allow_seen is not given.
        """
        from stedm_jax.experiment.held_out import check_held_out, names_of, seen

        splits, learnt = self.args.splits.split(","), self.segmenter.learnt
        if self.whole and not self.args.allow_seen:
            try:
                check_held_out(learnt, self.whole, splits)
            except UserError as error:
                raise UserError(
                    f"{error} To score them all the same, as not held out, give --allow_seen."
                ) from error
        elif self.whole:
            rows = [row for row in self.whole.images if row.split in splits]
            if found := seen(learnt, names_of(rows)):
                print(f"not held out, their scores are no evidence: {found}", flush=True)
        elif self.args.truth:
            print(
                "whose images these are is not known: that none was learned from is not checked",
                flush=True,
            )

    def run(self, item: Item) -> dict[str, Any]:
        """Segments, writes, scores; what is reported of it.

        Raises:
          UserError: the image or its truth are unusable.
        """
        from stedm_jax.imaging.find_images import is_slide
        from stedm_jax.inference.segment import segment
        from stedm_jax.inference.view import view_image, view_slide

        path = self.whole.file(item.truth) if self.whole else item.path
        wanted = self.segmenter.mpp
        if not self.whole and is_slide(path):
            view = view_slide(path, item.mpp, wanted, self.args.region)
        else:
            view = view_image(path, item.mpp or wanted, wanted)
        try:
            found = segment(self.segmenter, view, self.rules)
        finally:
            view.close()
        self._write(item.name, view, found)
        report = {
            "objects": int(found.objects.max()),
            "size": list(found.mask.shape),
            "mpp": view.mpp,
        }
        if item.truth is not None:
            score = (
                self.truth.score(item.truth, found, self.args.part)
                if self.truth
                else self._compare(item, found)
            )
            self.scores.append(score)
            report |= score.objects.scores()
        return report

    def _compare(self, item: Item, found: Any) -> Any:
        """Scores against a mask of class ids; each image is a patient of its own."""
        from stedm_jax.evaluation.objects import to_objects
        from stedm_jax.evaluation.whole_scores import score_image
        from stedm_jax.imaging.label_file import read_mask

        known, foreground = len(self.segmenter.names), self.segmenter.foreground
        mask = read_mask(item.truth, range(known))
        if mask.shape != found.mask.shape:
            raise UserError(
                f"The mask {item.truth} is {mask.shape} pixels, what was segmented "
                f"{found.mask.shape}."
            )
        return score_image(
            (item.name, item.name, "all"),
            mask,
            found.mask,
            found.objects,
            classes=known,
            foreground=foreground,
            true_objects=to_objects(np.isin(mask, foreground)),
        )

    def _write(self, name: str, view: Any, found: Any) -> None:
        from stedm_jax.inference import outputs
        from stedm_jax.inference.outlines import features

        one, most = self.segmenter, found.objects.max()
        if self.args.objects and most > outputs.MOST_OBJECTS:
            raise UserError(f"{most} objects are too many for --objects; raise --least.")
        mask, outlines, *numbers = outputs.outputs_of(self.args.out, name, self.args.objects)
        mask.parent.mkdir(parents=True, exist_ok=True)
        outputs.write_mask(mask, found.mask, one.colors)
        for path in numbers:
            outputs.write_numbers(path, found.objects)
        kinds = (one.names, one.colors, one.foreground)
        parts = features(found.mask, found.objects, *kinds, view.scale, view.corner)
        outputs.write_outlines(outlines, parts)

    def finish(self) -> str:
        """Writes the scores; a table of them, "" where there are none."""
        from stedm_jax.evaluation import whole_scores as scores
        from stedm_jax.evaluation.csv_text import to_csv
        from stedm_jax.inference.outputs import TABLES

        if not self.scores:
            return ""
        names = self.segmenter.names
        images, patients, summary = (self.args.out / name for name in TABLES)
        found = scores.summary(self.scores, names)
        write_text(images, to_csv(scores.by_image(self.scores, names)))
        write_text(patients, to_csv(scores.by_patient(self.scores, names)))
        write_json(summary, found)
        return scores.summary_table(found)


def process(results: Results, items: Sequence[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Every image with what is reported of it; a bad one, or one that the device fails on, is
    reported and stops no other."""
    from jax.errors import JaxRuntimeError

    for item in items:
        try:
            yield item, results.run(item)
        except UserError as error:
            yield item, {"error": str(error)}
        except (OSError, ValueError, MemoryError, JaxRuntimeError) as error:
            if isinstance(error, OSError) and explain(error) is not None:
                raise  # the disk is full: nothing more can be written
            yield (
                item,
                {"error": f"{item.path} cannot be segmented ({type(error).__name__}: {error})."},
            )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
      UserError: what concerns the command as a whole.
    """
    from stedm_jax.inference.outputs import REPORT, check_outputs

    args = parse_args(argv)
    items, whole = list_items(args)
    names = [item.name for item in items]
    check_outputs(args.out, names, args.objects, inputs_of(items, whole))
    results = Results(args, whole)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with (args.out / REPORT).open("w") as report:
        for number, (item, found) in enumerate(process(results, items), start=1):
            report.write(json.dumps({"image": item.name} | found) + "\n")
            report.flush()
            place = f"[{number}/{len(items)}] {item.name}"
            if "error" in found:
                failed += 1
                print(f"{place} failed: {found['error']}", file=sys.stderr, flush=True)
            else:
                print(f"{place}: {found['objects']} objects", flush=True)
    if table := results.finish():
        print(f"\n{table}", flush=True)
    print(f"{len(items) - failed} of {len(items)} images are segmented in {args.out}", flush=True)
    return 2 if failed == len(items) else int(failed > 0)


if __name__ == "__main__":
    run_command(main)
