"""Times packing a slide against a plain loop over its tiles, in turns, and shows where the engine's
time goes.

    python -m tests.data_prep.engine.bench_pack [--size=30000] [--mpp=1.0] [--tile=256] [--turns=3]
    python -m tests.data_prep.engine.bench_pack --turns=1 --workers=1,2 --slides=8

Both sides end with the same product: a file of records with image and mask, for the same tiles. The
plain side calls OpenSlide.read_region for each tile at the best level that OpenSlide names, scales
by Pillow's box filter, draws the mask of each tile, and encodes both by OpenCV with its own
settings; it searches for no tissue, draws no thumbnail, counts no pixels and computes no checksums.
Times are of the processor, since other things run on the machine. A slide of the size wanted is
made.

With --workers, runs of the whole command on --slides copies are timed by the wall, including the
start of the workers. What two processes can gain at all on a machine that others use too is
measured beside each run: as many processes as workers do the same arithmetic (PNG of a tile), first
one, then all at once. That ceiling is 2 on two idle cores.

Kinds of the profile:

    read      decoding the slide's tiles, and putting them together
    scale     averaging pixels by area
    encode    PNG of the image and of the mask
    overview  the same for the coarse image that tissue is found on: "overview read", "overview
      scale"
    tissue, masks (drawing them from polygons), opening (slide and annotation), thumbnail
    check     refusing what breaks the schema, counting pixels, the message, the index
    store     writing records, reading them again for their checksum, waiting for the disk
    rest      everything else

"Pixels" are the first four; what is stored is listed beside them, and is not counted.
"""

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import openslide
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

import data_prep.engine.cut as cut_module
import data_prep.engine.overview as overview_module
import data_prep.engine.source as source_module
import stedm_jax.data.codecs as codecs_module
import stedm_jax.data.schema as schema_module
import stedm_jax.data.tile_parts as parts_module
import stedm_jax.imaging.slide as scaled_module
import stedm_jax.imaging.tiff_file as file_module
from data_prep.annotations import draw_mask, load_annotation
from data_prep.class_plan import ClassPlan
from data_prep.cohort_table import Row
from data_prep.engine.job import CutRules, Job, PolygonFiles, SlideReport, Task
from data_prep.slides import main as pack
from data_prep.tile_grid import Position
from stedm_jax.data.codecs import encode_png
from stedm_jax.data.index import read_index
from stedm_jax.data.record_file import RecordFile
from stedm_jax.data.schema import ClassSpec, Tile
from tests.imaging.big_slide import texture, write_big_slide

PLAN = ClassPlan(
    tuple(ClassSpec(name, (0, 0, 0)) for name in ("background", "a", "b")), {"a": 1, "b": 2}, 0, 0
)
WATCHED = (
    (file_module.TiffFile, "read_level", "read"),
    (scaled_module, "area_resample", "scale"),
    (schema_module, "encode_image", "encode"),
    (schema_module, "encode_mask", "encode"),
    (scaled_module.Slide, "overview", "overview"),
    (overview_module, "find_tissue", "tissue"),
    (source_module.SlideSource, "labels", "masks"),
    (parts_module.PartWriter, "write", "check"),
    (parts_module.PartWriter, "finish", "check"),
    (parts_module, "sha256_of", "store"),
    (parts_module, "replace_folder", "store"),
    (parts_module, "RecordFile", "store"),
    (cut_module, "draw_thumbnail", "thumbnail"),
    (cut_module, "open_source", "opening"),
)
PIXELS = ("read", "scale", "encode")
CALIBRATION = 1500
"""PNGs that each process of the calibration makes; about a second."""


class Clock:
    """Processor time by kind, less what looking at the clock takes; that of the overview is counted
    separately."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        looks = [time.process_time() for _ in range(2000)]
        self._look = (looks[-1] - looks[0]) / len(looks)
        self._stack, self._since = ["rest"], time.process_time()

    def _switch(self) -> None:
        now = time.process_time()
        self.spent[self._stack[-1]] = (
            self.spent.get(self._stack[-1], 0.0) + now - self._since - self._look
        )
        self._since = now

    def watch(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """The function, its time counted for a kind."""

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            self._switch()
            coarse = any(each.startswith("overview") for each in self._stack)
            self._stack.append(f"overview {kind}" if coarse else kind)
            try:
                return function(*args, **options)
            finally:
                self._switch()
                self._stack.pop()

        return watched

    def _watch_writer(self, kind_of_writer: type, kind: str) -> Callable[..., Any]:
        """A class like that of a writer, whose methods are watched."""

        class Watched:
            def __init__(own, *args: Any) -> None:  # noqa: N805 - self is the clock
                own._writer = kind_of_writer(*args)
                own.write = self.watch(own._writer.write, kind)
                own.close = self.watch(own._writer.close, kind)

        return self.watch(Watched, kind)

    def table(self) -> str:
        """Shares of all kinds, and of what counts as pixels."""
        total = sum(self.spent.values())
        pixels = sum(
            self.spent.get(f"{where}{kind}", 0.0) for where in ("", "overview ") for kind in PIXELS
        )
        rows = sorted(self.spent.items(), key=lambda item: -item[1])
        lines = [f"  {kind:15} {spent:7.3f} s {100 * spent / total:5.1f} %" for kind, spent in rows]
        store = self.spent.get("store", 0.0)
        lines += [
            f"  pixels (read, scale, encode) {100 * pixels / total:.1f} %, "
            f"storing them {100 * store / total:.1f} %"
        ]
        return "\n".join([f"profile of {total:.2f} s of processor time:", *lines])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watches all kinds."""
        with ExitStack() as stack:
            for owner, name, kind in WATCHED:
                found = getattr(owner, name)
                watched = self._watch_writer if name == "ArrayRecordWriter" else self.watch
                stack.enter_context(mock.patch.object(owner, name, watched(found, kind)))
            self._since = time.process_time()
            yield
            self._switch()


def write_annotation(path: Path, size: int) -> None:
    """Wavy regions of two classes all over the slide, as a pathologist draws them."""
    features, rng, step = [], np.random.default_rng(0), 3000
    angle = np.linspace(0, 2 * np.pi, 200)
    for number, (y, x) in enumerate(
        (y, x) for y in range(0, size, step) for x in range(0, size, step)
    ):
        radius = step * (
            0.35 + 0.05 * np.sin(rng.integers(3, 9) * angle) + 0.01 * rng.standard_normal(200)
        )
        ring = np.stack(
            [x + step / 2 + radius * np.cos(angle), y + step / 2 + radius * np.sin(angle)], 1
        )
        ring = np.concatenate([ring[:-1], ring[:1]]).clip(0, size).round(1).tolist()
        geometry = {"type": "Polygon", "coordinates": [ring]}
        named = {"objectType": "annotation", "classification": {"name": "ab"[number % 2]}}
        features.append({"type": "Feature", "geometry": geometry, "properties": named})
    path.write_text(json.dumps(features))


def engine(slide: Path, labels: Path, rules: CutRules, part: Path) -> SlideReport:
    """Cuts it as a worker does."""
    row = Row(slide.name, "P", "train", {}, {}, 1)
    job = Job("k", row, slide, PolygonFiles((labels,), slide.name), fallback_mpp=0.25)
    report = cut_module.cut(Task(job, PLAN, rules, "f", part, part.with_suffix(".png")))
    if report.error:
        raise SystemExit(report.error)
    return report


def usual_png(image: np.ndarray) -> bytes:
    """A PNG by OpenCV with its own settings."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def plain(slide: Path, labels: Path, rules: CutRules, places: list[Position], out: Path) -> None:
    """One read_region a tile."""
    file, tile = openslide.OpenSlide(slide), rules.tile
    polygons = load_annotation((labels,), slide.name, file.dimensions).polygons
    factor = rules.mpp / 0.25
    level = file.get_best_level_for_downsample(factor * 1.005)
    side = round(tile * factor / file.level_downsamples[level])
    writer = RecordFile(out, out)
    usual = mock.patch.object(codecs_module, "encode_png", usual_png)
    png = mock.patch.object(
        schema_module, "encode_mask", lambda mask: cv2.imencode(".png", mask)[1].tobytes()
    )
    with usual, png:
        for y, x in places:
            region = file.read_region(
                (round(x * factor), round(y * factor)), level, (side, side)
            ).convert("RGB")
            if side != tile:
                region = region.resize((tile, tile), Image.Resampling.BOX)
            mask = draw_mask(polygons, PLAN.ids, (y, x, tile, tile), factor, 0)
            made = Tile(np.asarray(region), mask, "P", slide.name, "train", x, y, level, rules.mpp)
            writer.write(schema_module.encode_tile(made))
    writer.close()
    file.close()


def digest(part: Path) -> str:
    """Of all records in their order: unlike the file's own checksum, it says what any writer must
    keep."""
    reader, total = ArrayRecordReader(str(part / parts_module.RECORDS)), hashlib.sha256()
    for data in reader.read_all():
        tile = schema_module.decode_tile(data)
        total.update(
            tile.image.tobytes() + tile.mask.tobytes() + f"{tile.x},{tile.y},{tile.kind}".encode()
        )
    reader.close()
    return total.hexdigest()[:16]


def seconds(function: Callable[..., Any], *arguments: object) -> float:
    """Processor time."""
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def _calibrate(barrier: Any, rounds: int, took: Any) -> None:
    """What each process of a calibration does: starts with the others, and times its own work by
    the wall."""
    tile = texture(256)
    encode_png(tile)
    barrier.wait()
    started = time.monotonic()
    for _ in range(rounds):
        encode_png(tile)
    took.put(time.monotonic() - started)


def side_by_side(processes: int, rounds: int = CALIBRATION) -> float:
    """Seconds that the slowest of so many processes takes for the same work."""
    context = multiprocessing.get_context("spawn")
    barrier, took = context.Barrier(processes), context.Queue()
    running = [
        context.Process(target=_calibrate, args=(barrier, rounds, took)) for _ in range(processes)
    ]
    for process in running:
        process.start()
    slowest = max(took.get() for _ in running)
    for process in running:
        process.join()
    return slowest


def ceiling(processes: int) -> float:
    """How many times as much work so many processes do as one, on this machine at this moment."""
    return processes * side_by_side(1) / side_by_side(processes)


def spent_in_all() -> float:
    """Processor time of this process and of its children that have ended."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return sum(usage.ru_utime + usage.ru_stime for usage in (own, children))


def by_workers(
    folder: Path,
    slide: Path,
    labels: Path,
    rules: CutRules,
    counts: list[int],
    turns: int,
    slides: int,
) -> None:
    """Times the whole command, in turns; prints a line a turn."""
    for name in ("slides", "annotations"):
        (folder / name).mkdir()
    rows = ["slide,patient,split"]
    for number in range(slides):
        os.link(slide, folder / "slides" / f"{number}.tif")
        os.link(labels, folder / "annotations" / f"{number}.geojson")
        rows.append(f"{number}.tif,P{number},train")
    (folder / "t.csv").write_text("\n".join(rows))
    flags = [f"--{name}={folder / name}" for name in ("slides", "annotations")]
    flags += [
        f"--table={folder / 't.csv'}",
        f"--mpp={rules.mpp}",
        f"--tile={rules.tile}",
        "--slide_mpp=0.25",
    ]
    flags += ["--annotation_complete", "--overwrite", "--name=bench"]
    for _ in range(turns):
        took, spent, most = {}, {}, [ceiling(counts[-1])]
        for count in counts:
            started, before = time.monotonic(), spent_in_all()
            pack([*flags, f"--out={folder / f'out-{count}'}", f"--workers={count}"])
            took[count], spent[count] = time.monotonic() - started, spent_in_all() - before
            most.append(ceiling(counts[-1]))
        times = ", ".join(
            f"{count} workers {took[count]:.1f} s ({spent[count]:.1f} of processors)"
            for count in counts
        )
        ratio, reach = took[counts[0]] / took[counts[-1]], float(np.mean(most))
        print(
            f"{slides} slides, by the wall: {times}; ratio {ratio:.2f}, of {reach:.2f} that the "
            f"machine allowed ({min(most):.2f} to {max(most):.2f}): {100 * ratio / reach:.0f} %",
            flush=True,
        )


def main() -> None:
    """Prints ratios, the profile, and the records' checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=30_000)
    parser.add_argument("--mpp", type=float, default=1.0)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--margin", type=int, default=0, help="of the engine only")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--workers", default="", help="such as 1,2: time the whole command with so many"
    )
    parser.add_argument("--slides", type=int, default=8, help="that are packed with --workers")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide, labels, part = folder / "big.tif", folder / "big.geojson", folder / "part"
        write_big_slide(slide, args.size)
        write_annotation(labels, args.size)
        rules = CutRules(args.mpp, args.tile, args.margin)
        common = (slide, labels, rules)
        engine(*common, part)  # first calls load libraries
        factor = args.mpp / 0.25
        rows = read_index(part / "index.csv")["train"]
        places = [(round(row.y / factor), round(row.x / factor)) for row in rows]
        print(
            f"{args.size} pixels at {args.mpp} um, {len(places)} tiles; records {digest(part)}",
            flush=True,
        )
        for _ in range(args.turns):
            own, other = (
                seconds(engine, *common, part),
                seconds(plain, *common, places, folder / "plain"),
            )
            rates = (
                f"{len(places) / own:.1f} and {len(places) / other:.1f} tiles/s of processor time"
            )
            print(f"engine and plain loop: {rates}; ratio {other / own:.2f}", flush=True)
        clock = Clock()
        with clock.running():
            engine(*common, part)
        print(clock.table(), flush=True)
        if args.workers:
            counts = [int(count) for count in args.workers.split(",")]
            by_workers(folder, slide, labels, rules, counts, args.turns, args.slides)


if __name__ == "__main__":
    main()
