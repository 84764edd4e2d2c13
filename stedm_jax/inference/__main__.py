"""Images, slides and folders to masks, with a segmenter of a run.

    python -m stedm_jax.inference --workdir=RUN --images=DIR --out=OUT [--arm=labelled] [--mpp=0.5]

Writes for each image NAME of DIR (or below it) into OUT
    NAME.png       class ids with the colors of the classes as palette: as large as the image; of a
                   slide at the resolution of the tiles that the segmenter learned from
    NAME.geojson   outlines of the objects in pixels of the file (of level 0) for QuPath, which
                   counts from the corner of what was scanned
    NAME_objects.png   with --objects: their numbers, 16 bits
what else --write names (OME-TIFF or OME-Zarr pyramids, overlays; areas.csv and slides.html of all)
and report.jsonl, a line an image. Hidden files and results of this command are no images, and
nothing is written over a file that is read, or that this command did not write. The same command
again does what is not done yet; an image whose file or settings have changed is made anew. Of
slides only the tissue is segmented, unless --everywhere is given; elsewhere masks are 255.

DIR may be one file, or what --whole of data_prep makes: then the images of --splits are taken, and
images.csv, patients.csv and summary.json hold accuracy, IoU and Dice of classes and the GlaS
challenge's F1, Dice and Hausdorff distance of objects where these are numbered, by image, by
patient and by part of the test. Patients that the run has learned from are refused without
--allow_seen. --truth=DIR is a folder with masks of class ids of the same names instead; its objects
are areas of the foreground, and --table=CSV says whose images they are.

Exit status: 0 all images segmented; 1 some failed, or it was asked to stop (SIGTERM), the others
are done; 2 nothing was done; 130 Ctrl-C.
"""

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from stedm_jax.common.commands import run_command
from stedm_jax.common.errors import UserError, explain
from stedm_jax.common.text import duration, percent
from stedm_jax.inference.arguments import parse_args

if TYPE_CHECKING:  # these import jax, which --help and a misspelled option need not wait for
    from stedm_jax.inference.image_results import Results
    from stedm_jax.inference.items import Item
    from stedm_jax.inference.report_lines import Line, Report
    from stedm_jax.inference.view import View


def process(
    results: "Results", items: Sequence["Item"], report: "Report"
) -> Iterator[tuple["Item", "Line", bool]]:
    """Every image with the line that the report has of it, and whether it was done before. What
    fails on an image is reported and stops no other. The next image is opened on a thread."""
    from stedm_jax.inference.read_ahead import read_ahead

    def prepare(item: "Item") -> tuple["Line | None", str, "View | Exception | None"]:
        try:
            made_with = results.made_with(item)
            line = report.done(item.name, made_with)
            if line and results.are_there(item):
                return line, made_with, None
            return None, made_with, results.open(item)
        except Exception as error:
            return None, "", error

    prepared = read_ahead(prepare, items, ahead=1, threads=1)
    for item, (line, made_with, view) in zip(items, prepared, strict=True):
        if line is not None:
            yield item, line, True
            continue
        try:
            if isinstance(view, Exception):
                raise view
            assert view is not None
            line = results.run(item, view) | {"made_with": made_with}
        except UserError as error:
            line = {"image": item.name, "error": str(error)}
        except Exception as error:
            if isinstance(error, OSError) and explain(error) is not None:
                raise  # the disk is full: nothing more can be written
            if not isinstance(error, OSError | MemoryError):
                traceback.print_exc()
            text = f"{item.path} cannot be segmented ({type(error).__name__}: {error})."
            line = {"image": item.name, "error": text}
        yield item, line, False


def segment_all(results: "Results", items: Sequence["Item"], report: "Report") -> int:
    """Segments all images; how many of them failed."""
    failed, made, began = 0, 0, time.perf_counter()
    for number, (item, line, before) in enumerate(process(results, items, report), start=1):
        report.add(line, before)
        place = f"[{number}/{len(items)}] {item.name}"
        if "error" in line:
            failed += 1
            print(f"{place} failed: {line['error']}", file=sys.stderr, flush=True)
            continue
        results.take(item, line)
        dropped = sum(each["objects"] for each in line["dropped"].values())
        said = [f"{line['objects']} objects", *([f"{dropped} dropped"] if dropped else [])]
        others = ["{} x {}".format(*size) for size in line.get("other_pictures", ())]
        said += [f"other pictures in the file are left out: {', '.join(others)}"] if others else []
        said += ["done before"] if before else [_times(line["seconds"])]
        print(f"{place}: {', '.join(said)}", flush=True)
        for text in line["warnings"]:
            print(f"{place}: note that {text}", file=sys.stderr, flush=True)
        made += 0 if before else 1
        if made and not before and number < len(items):
            left = (time.perf_counter() - began) / made * (len(items) - number)
            print(f"{len(items) - number} images to go, about {duration(left)}", flush=True)
    return failed


def _times(seconds: Mapping[str, float]) -> str:
    """How long an image took, and for which share of that the network waited for pixels."""
    whole = sum(seconds.values())
    waited = percent(seconds["waited"] / max(whole - seconds["written"], 1e-9))
    return f"{duration(whole)}, {waited} of the network's time waiting for pixels"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
      UserError: what concerns the command as a whole.
    """
    args = parse_args(__doc__ or "", argv)

    from stedm_jax.inference import trained_segmenter
    from stedm_jax.inference.combine import combined
    from stedm_jax.inference.image_results import Results
    from stedm_jax.inference.items import inputs_of, list_items
    from stedm_jax.inference.outputs import REPORT, check_outputs
    from stedm_jax.inference.report_lines import Report
    from stedm_jax.training.signals import Signals, Stopped

    items, whole = list_items(args)
    names = [item.name for item in items]
    check_outputs(args.out, names, args.write, inputs_of(items, whole))
    if args.ensemble:
        members = trained_segmenter.load_members(args.workdir, args.arm)
        print(f"the mean of {len(members)} seeds of {args.arm}", flush=True)
    else:
        members = [trained_segmenter.load_segmenter(args.workdir, args.arm, args.seed)]
    segmenter = combined(members, args.tta)
    results = Results(args, items, whole, segmenter)
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out / REPORT, names)
    try:
        with Signals(), report:
            failed = segment_all(results, items, report)
    except (KeyboardInterrupt, Stopped) as error:
        missing = f"{report.missing} of {len(items)} images are not done"
        print(f"\n{missing}; {args.out / REPORT} names them.", flush=True)
        if isinstance(error, Stopped):
            error.code = error.code or 1
        raise
    if table := results.finish():
        print(f"\n{table}", flush=True)
    if results.kept:
        print(f"\n{results.amounts()}", flush=True)
    print(f"{len(items) - failed} of {len(items)} images are segmented in {args.out}", flush=True)
    return 2 if failed == len(items) else int(failed > 0)


if __name__ == "__main__":
    run_command(main)
