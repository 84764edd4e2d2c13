"""A tile set of a user's layouts and styles, written while it is made."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stedm_jax.common.files import sha256_of, sha256_of_json
from stedm_jax.data.numbered_parts import NumberedParts
from stedm_jax.data.records import SetSpec
from stedm_jax.data.schema import SYNTHETIC, ClassSpec, Tile
from stedm_jax.experiment.segmenters import about_tiles
from stedm_jax.synthesize.given_files import Layouts, Styles
from stedm_jax.synthesize.trained_generator import Generator
from stedm_jax.training.progress import Progress


@dataclass(frozen=True)
class Asked:
    """What to make.

    Attributes:
      out: folder of the set.
      count: tiles. seed: of all that is random.
      mix: weight of a second patient.
      previews: PNG files too.
    """

    out: Path
    count: int
    seed: int = 0
    mix: float = 0.0
    previews: bool = False


@dataclass(frozen=True)
class Recipe:
    """What a tile is made of."""

    file: Path
    mask: np.ndarray
    patients: tuple[str, ...]
    bags: tuple[np.ndarray, ...]
    images: tuple[Path, ...]


def recipe(number: int, layouts: Layouts, styles: Styles, asked: Asked, tiles: int) -> Recipe:
    """Layout and style tiles of a tile: a function of the seed and its number.

    Layouts come in turn, and in each round with the next patient.
    """
    rng = np.random.default_rng((asked.seed, number))
    names, files = sorted(styles.patients), layouts.files
    first = number % len(files) + number // len(files)
    others = int(rng.integers(1, len(names))) if len(names) > 1 else 0
    places = (first, first + others) if asked.mix else (first,)
    patients = tuple(names[place % len(names)] for place in places)
    drawn = [styles.draw(patient, tiles, rng) for patient in patients]
    file = files[number % len(files)]
    images = tuple(image for _, used in drawn for image in used)
    return Recipe(file, layouts.read(file), patients, tuple(bag for bag, _ in drawn), images)


def _identity(layouts: Layouts, styles: Styles) -> str:
    """A checksum of all that was given, so that parts of other files are not taken for these."""
    files = {name: [*map(sha256_of, each)] for name, each in styles.patients.items()}
    masks = [(file.stem, sha256_of(file)) for file in layouts.files]
    return sha256_of_json([masks, layouts.values, layouts.fit, files])


def make_set(generator: Generator, layouts: Layouts, styles: Styles, asked: Asked) -> None:
    """Makes the set; parts that are there are kept."""
    about = about_tiles(generator.context)
    provenance = {
        **generator.provenance,
        "generator": generator.name,
        "sampler": generator.section.sampler,
        "steps": str(generator.section.steps),
        "guidance_scale": str(generator.section.guidance.scale),
        "seed": str(asked.seed),
        "mix": str(asked.mix),
        "given_sha256": _identity(layouts, styles),
    }
    spec = SetSpec(
        name="synthesized",
        classes=tuple(
            ClassSpec(name, (int(r), int(g), int(b)))
            for name, (r, g, b) in zip(about["classes"], about["colors"], strict=True)
        ),
        mpp=float(about["mpp"]),
        tile=layouts.side,
        source={"made_by": "stedm_jax.synthesize", **provenance},
    )
    parts = NumberedParts(asked.out.with_name(f"{asked.out.name}-parts"), spec, asked.count)
    known = {numbers.start for numbers in parts.sweep()}
    size = generator.section.batch
    progress = Progress("synthesize", -(-asked.count // size), size)
    for step, start in enumerate(range(0, asked.count, size), start=1):
        numbers = range(start, min(start + size, asked.count))
        if start not in known:
            made = (recipe(n, layouts, styles, asked, generator.styles) for n in numbers)
            parts.write(numbers, _tiles(generator, list(made), start, provenance, spec, asked))
        progress.advance(step)
    parts.assemble(asked.out)
    shutil.rmtree(parts.folder)


def _tiles(
    generator: Generator,
    recipes: list[Recipe],
    start: int,
    provenance: dict[str, str],
    spec: SetSpec,
    asked: Asked,
) -> Iterator[Tile]:
    images = generator.images(
        np.stack([each.mask for each in recipes]),
        [each.bags[0] for each in recipes],
        seed=asked.seed,
        first=start,
        second=[each.bags[-1] for each in recipes] if asked.mix else None,
        mix=asked.mix,
    )
    for number, (each, image) in enumerate(zip(recipes, images, strict=True), start=start):
        if asked.previews:
            folder = asked.out.with_name(f"{asked.out.name}-previews")
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:06d}-{each.file.stem}.png")
        own = {
            "index": str(number),
            "layout_file": str(each.file),
            "style_patient": "+".join(each.patients),
            "style_files": " ".join(map(str, each.images)),
        }
        yield Tile(
            image=np.ascontiguousarray(image),
            mask=np.ascontiguousarray(each.mask),
            patient=each.file.stem,
            slide=each.file.stem,
            split=SYNTHETIC,
            x=0,
            y=0,
            level=0,
            mpp=spec.mpp,
            provenance=provenance | own,
        )
