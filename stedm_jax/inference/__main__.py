"""Images, slides and folders to masks, with a segmenter of a run.

    python -m stedm_jax.inference --workdir=RUN --images=DIR --out=OUT [--arm=labelled] [--mpp=0.5]

Writes for each image NAME of DIR (or below it) into OUT
    NAME.png       class ids with the colours of the classes as palette: as large as the image; of a
                   slide at the resolution of the tiles that the segmenter learnt from
    NAME.geojson   outlines of the objects in pixels of the file (of level 0), for QuPath
    NAME_objects.png   with --objects: their numbers, 16 bits
and report.jsonl, a line an image. DIR may be one file, or what --whole of data_prep makes: then the
images of --splits are taken, and images.csv, patients.csv and summary.json hold accuracy, IoU and
Dice of classes and the GlaS challenge's F1, Dice and Hausdorff distance of objects where these are
numbered, by image, by patient and by part of the test. Patients that the run has learnt from are
refused without --allow_seen. --truth=DIR is a folder with masks of class ids of the same names
instead; its objects are areas of the foreground, and its patients are not known.

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
from PIL import Image

from stedm_jax.common.errors import UserError, explain
from stedm_jax.common.files import write_text


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
    add("--region", default="", help="X,Y,WIDTH,HEIGHT in level-0 pixels: only that of each slide")
    add("--truth", type=Path, help="folder with masks of class ids, NAME.png for each image")
    add("--splits", default="test", help="of whole images with truth (test)")
    add(
        "--allow_seen",
        action="store_true",
        help="score patients too whose tiles the run has learnt from",
    )
    add(
        "--part",
        default="official_split",
        help="tag that divides the test in what is told (official_split)",
    )
    add("--overlap", type=float, default=0.25, help="of patches, as a share of their side (0.25)")
    add(
        "--margin",
        type=float,
        default=0.0625,
        help="outermost part of a patch that does not count (0.0625)",
    )
    add("--batch", type=int, default=16, help="patches at once (16)")
    add("--least", type=float, default=100.0, help="square microns of the smallest object (100)")
    add(
        "--hole",
        type=float,
        default=100.0,
        help="square microns of the largest hole that is filled (100)",
    )
    add("--objects", action="store_true", help="write the numbers of objects too")
    args = parser.parse_args(argv)
    args.region = _region(args.region)
    if args.mpp is not None and not 0.05 <= args.mpp <= 100:
        raise UserError(
            f"--mpp={args.mpp:g} is no microscope's; give microns per pixel, such as 0.5."
        )
    if min(args.least, args.hole) < 0:
        raise UserError(
            f"--least={args.least:g} and --hole={args.hole:g} are areas; give 0 or more."
        )
    return args


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
      UserError: there is none, or nobody says the microns per pixel.
    """
    from stedm_jax.data.whole import WholeSet
    from stedm_jax.inference.pictures import find_images, is_slide

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
            f"{len(silent)} images such as {silent[0]} do not say their microns per pixel; give them: --mpp=0.5."
        )
    return items, None


class Results:
    """Segments images one by one and writes what comes of them."""

    def __init__(self, args: argparse.Namespace, whole: Any):
        from stedm_jax.inference.load import load_segmenter
        from stedm_jax.inference.segment import Rules, Truth

        self.args, self.whole = args, whole
        self.segmenter = load_segmenter(args.workdir, args.arm, args.seed)
        self.rules = Rules(args.overlap, args.margin, args.batch, args.least, args.hole)
        self.rules.patches(self.segmenter)  # refuses what does not fit before anything runs
        self.truth = Truth(whole, self.segmenter) if whole else None
        self._check_seen()
        self.scores: list[Any] = []

    def _check_seen(self) -> None:
        """Refuses to score patients that were learnt from, or says that they were, or that nobody
        knows.

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
            if found := seen(
                learnt, names_of(row for row in self.whole.images if row.split in splits)
            ):
                print(f"not held out, their scores are no evidence: {found}", flush=True)
        elif self.args.truth:
            print(
                "whose images these are is not known: that none was learnt from is not checked",
                flush=True,
            )

    def run(self, item: Item) -> dict[str, Any]:
        """Segments, writes, scores; what is told of it.

        Raises:
          UserError: the image or its truth are unusable.
        """
        from stedm_jax.inference.pictures import is_slide, open_plain, open_slide
        from stedm_jax.inference.segment import segment

        path = self.whole.file(item.truth) if self.whole else item.path
        if is_slide(path):
            opened = open_slide(path, item.mpp, self.segmenter.mpp, self.args.region)
        else:
            opened = open_plain(path, item.mpp or self.segmenter.mpp, self.segmenter.mpp)
        found = segment(self.segmenter, opened, self.rules)
        self._write(item.name, opened, found)
        told = {
            "objects": int(found.objects.max()),
            "size": list(found.mask.shape),
            "mpp": opened.mpp,
        }
        if item.truth is not None:
            score = (
                self.truth.score(item.truth, found, self.args.part)
                if self.truth
                else self._compare(item, found)
            )
            self.scores.append(score)
            told |= score.objects.scores()
        return told

    def _compare(self, item: Item, found: Any) -> Any:
        """Scores against a mask of class ids; each image is a patient of its own."""
        from stedm_jax.evaluation.whole_scores import score_image
        from stedm_jax.evaluation.objects import to_objects
        from stedm_jax.inference.pictures import read_ids

        known = len(self.segmenter.names)
        mask = read_ids(item.truth, found.mask.shape, known)
        names, foreground = (item.name, item.name, "all"), self.segmenter.foreground
        objects = to_objects(np.isin(mask, foreground))
        return score_image(
            names,
            mask,
            found.mask,
            found.objects,
            classes=known,
            foreground=foreground,
            true_objects=objects,
        )

    def _write(self, name: str, opened: Any, found: Any) -> None:
        from stedm_jax.inference.outlines import collection, features

        one, out = self.segmenter, self.args.out / name
        out.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(found.mask)
        picture.putpalette(np.array(one.colors, np.uint8).tobytes())
        _save(picture, out.with_name(f"{out.name}.png"))
        if self.args.objects:
            if found.objects.max() > 65535:
                raise UserError(
                    f"{found.objects.max()} objects are too many for --objects; raise --least."
                )
            _save(
                Image.fromarray(found.objects.astype(np.uint16)),
                out.with_name(f"{out.name}_objects.png"),
            )
        shapes = features(
            found.mask,
            found.objects,
            one.names,
            one.colors,
            one.foreground,
            opened.scale,
            opened.corner,
        )
        write_text(out.with_name(f"{out.name}.geojson"), json.dumps(collection(shapes)))

    def finish(self) -> str:
        """Writes the scores; a table of them, "" where there are none."""
        from stedm_jax.evaluation.csv_text import to_csv
        from stedm_jax.evaluation.whole_scores import by_image, by_patient, summary, summary_table

        if not self.scores:
            return ""
        names, out = self.segmenter.names, self.args.out
        told = summary(self.scores, names)
        write_text(out / "images.csv", to_csv(by_image(self.scores, names)))
        write_text(out / "patients.csv", to_csv(by_patient(self.scores, names)))
        write_text(out / "summary.json", json.dumps(told, indent=1))
        return summary_table(told)


def _save(picture: Image.Image, path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    picture.save(partial, "PNG")
    partial.replace(path)


def process(results: Results, items: Sequence[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Every image with what is told of it; a bad one, or one that the device fails on, is told and
    stops no other."""
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
    args = parse_args(argv)
    items, whole = list_items(args)
    results = Results(args, whole)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with (args.out / "report.jsonl").open("w") as report:
        for number, (item, told) in enumerate(process(results, items), start=1):
            report.write(json.dumps({"image": item.name} | told) + "\n")
            report.flush()
            failed += "error" in told
            if "error" in told:
                print(
                    f"[{number}/{len(items)}] {item.name} failed: {told['error']}",
                    file=sys.stderr,
                    flush=True,
                )
            else:
                print(f"[{number}/{len(items)}] {item.name}: {told['objects']} objects", flush=True)
    if table := results.finish():
        print(f"\n{table}", flush=True)
    print(f"{len(items) - failed} of {len(items)} images are segmented in {args.out}", flush=True)
    return 2 if failed == len(items) else int(failed > 0)


def cli() -> None:
    """Runs main; what a user can mend becomes one paragraph and an exit status."""
    try:
        status = main()
    except BaseException as error:
        told = None if isinstance(error, SystemExit) else explain(error)
        if told is None:
            raise
        print(f"error: {told[0]}", file=sys.stderr, flush=True)
        status = told[1]
    sys.exit(status)


if __name__ == "__main__":
    cli()
