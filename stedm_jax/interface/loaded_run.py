"""A trained run as an object: numpy in, numpy out, by the code that the commands run."""

from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Float32, UInt8

from stedm_jax.common.commands import fix_numbers
from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.saved import open_run
from stedm_jax.experiment.segmenters import about_tiles, trained
from stedm_jax.inference.segment import Rules, segment
from stedm_jax.inference.trained_segmenter import Segmenter, segmenter_of
from stedm_jax.inference.view import view_array
from stedm_jax.interface.checked import (
    check_images,
    check_latents,
    check_masks,
    check_mpp,
    check_sides,
    check_styles,
    check_weight,
    check_whole,
)
from stedm_jax.interface.tile_list import TileList
from stedm_jax.settings.root import Settings
from stedm_jax.synthesize.trained_generator import generators_of, load_generator
from stedm_jax.tasks.images import to_bytes, to_network
from stedm_jax.training.sharding import batch_sharding

LABELLED = "labelled"
"""The arm that comes first."""
BATCH = 8
"""Images at once; results do not depend on it."""
KEPT = 4
"""Segmenters, and ways to sample, whose weights stay on the devices: those that were used last."""


def load_run(folder: str | Path) -> "Run":
    """Opens a workdir, or the folder of an exported run, whose checksums are compared.

    >>> run = load_run("runs/demo")
    >>> run.classes
    ('background', 'tumour')

    Raises:
      UserError: it is neither, or a file of an exported run was changed.
    """
    fix_numbers()
    return Run(Path(folder))


class Run:
    """What a run has learned; networks are loaded when they are first used.

    Images are uint8 RGB, masks uint8 class numbers. Wrong arguments raise a UserError.
    """

    def __init__(self, path: Path):
        self._context = open_run(path)
        self.path = path
        kept = lru_cache(KEPT)
        self._segmenter = kept(lambda arm, seed: segmenter_of(self._context, arm, seed))
        self._generator = kept(partial(load_generator, self._context))

    def __repr__(self) -> str:
        arms, generators = ", ".join(self.arms) or "none", ", ".join(self.generators) or "none"
        return f"Run({str(self.path)!r}, arms: {arms}; generators: {generators})"

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        return self._context.settings

    @cached_property
    def _about(self) -> Mapping[str, Any]:
        return about_tiles(self._context)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; the position is the number in masks."""
        return tuple(self._about["classes"])

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """Colors of the classes, RGB."""
        return tuple((int(r), int(g), int(b)) for r, g, b in self._about["colors"])

    @property
    def mpp(self) -> float:
        """Microns per pixel of the tiles that it learned from."""
        return float(self._about["mpp"])

    @property
    def tile(self) -> int:
        """Their side in pixels."""
        return int(self._about["tile"])

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Trained segmenters of images, by arm: first the labelled baseline that commands take
        without --arm; the one that judges synthetic images is "judge"."""
        known = trained(self.path)
        # Patients in a normalized stain are scored by the segmenter of another arm.
        known = [one for one in known if one.chosen or not one.taken]
        known.sort(key=lambda one: one.arm != LABELLED)
        return tuple(dict.fromkeys(one.name for one in known))

    @cached_property
    def generators(self) -> tuple[str, ...]:
        """Trained generators."""
        return tuple(generators_of(self._context))

    def segment(
        self, image: np.ndarray, mpp: float, arm: str = "", seed: int | None = None
    ) -> tuple[UInt8[np.ndarray, "h w"], Float32[np.ndarray, "h w k"]]:
        """Segments an image of any size, as `python -m stedm_jax.inference` does.

        >>> mask, probabilities = run.segment(image, mpp=2.0)
        >>> mask.shape == image.shape[:2] == probabilities.shape[:2]
        True

        Args:
          image: uint8 (h, w, 3).
          mpp: its microns per pixel.
          arm: which segmenter, of `arms`; "": the first.
          seed: which of its trainings; None: the first.

        Returns:
          The class number of each pixel, and the probability of each class.

        Raises:
          UserError: an image of another kind, or no such segmenter.
        """
        check_images(image, "image", "h w 3")
        segmenter = self.segmenter(arm, seed)
        view = view_array(image, check_mpp(mpp), segmenter.mpp)
        out = np.empty((*view.size, len(segmenter.names)), np.float32)

        def take(top: int, maps: np.ndarray) -> None:
            out[top : top + len(maps)] = maps[..., : out.shape[-1]]

        return segment(segmenter, view, Rules(), take).mask, out

    def segmenter(self, arm: str = "", seed: int | None = None) -> Segmenter:
        """What `segment` uses; arguments and errors as there."""
        if not self.arms:
            raise UserError(f"{self.path} has no trained segmenter.")
        return self._segmenter(arm or self.arms[0], seed)

    def synthesize(
        self,
        masks: np.ndarray,
        styles: np.ndarray,
        seed: int = 0,
        generator: str = "",
        first: int = 0,
        second: np.ndarray | None = None,
        mix: float = 0.5,
        **changes: Any,
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Makes images of layouts in the style of some tiles.

        >>> made = run.synthesize(masks, styles, steps=2)
        >>> made.shape == (*masks.shape, 3)
        True

        Image n depends on the seed, on n, on its mask and on its style tiles alone.

        Args:
          masks: layouts, uint8 (n, h, w), square: class numbers, 255 where it may be anything.
          styles: uint8 (k, h, w, 3), tiles of one patient for all masks, or (n, k, h, w, 3), those
            of each. As many as the generator looks at are drawn, with repetition of too few.
          seed: of the noise and of the drawing; each seed is compiled when it is first used.
          generator: of `generators`; "": the first.
          first: number of the first image; 8 gives the images that follow on 8 others.
          second: tiles of another patient, as `styles`, whose style is mixed in.
          mix: weight of that style, 0 to 1; each weight is compiled when it is first used.
          changes: of keys of config.synthesis, as steps=32 or guidance=2.0, which is its scale.
            Without them as in the first set of the generator.

        Raises:
          UserError: arrays of another kind, an unknown class or key, or no such generator.
        """
        masks = check_masks(masks)
        groups = check_styles(styles, "styles", len(masks))
        others = None
        if second is not None and check_weight(mix) > 0:
            others = check_styles(second, "second", len(masks), like=groups)
        if "guidance" in changes:
            changes["guidance.scale"] = changes.pop("guidance")
        fixed = {key: _fixed(value) for key, value in changes.items()}
        made = self._generator(generator, FrozenDict(fixed))
        seed, first = check_whole(seed, "seed"), check_whole(first, "first")
        images = made.images(masks, groups, seed=seed, first=first, second=others, mix=mix)
        return np.stack(list(images))

    def encode(self, images: np.ndarray) -> Float32[np.ndarray, "n hs ws c"]:
        """Latents of images by the first stage; those of the kind vq before they are quantized.

        >>> run.encode(image[None, :32, :32]).shape
        (1, 8, 8, 4)

        Args:
          images: uint8 (n, h, w, 3), at the resolution of the tiles.

        Raises:
          UserError: images of another kind or size, or the run has no first stage.
        """
        check_images(images, "images", "n h w 3")
        first, encode, _ = self._first
        check_sides(images, "images", first.factor)
        return self._in_parts(encode, images)

    def decode(self, latents: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
        """Images of latents (n, h, w, channels), float32; the inverse of `encode`, but for what the
        first stage loses.

        Raises:
          UserError: latents of another kind, or the run has no first stage.
        """
        first, _, decode = self._first
        return self._in_parts(decode, check_latents(latents, first.channels))

    @cached_property
    def _first(self) -> tuple[Any, Any, Any]:
        """The first stage, and what encodes and decodes by it."""
        context = self._context
        known = self._finished("autoencoder")
        task, params, _ = Learned(context.at(known[0].point) if known else context).autoencoder
        encode = jax.jit(lambda params, images: task.encode(params, to_network(images)))
        decode = jax.jit(lambda params, latents: to_bytes(task.decode(params, latents)))
        return task, partial(encode, params), partial(decode, params)

    def _in_parts(self, run: Any, rows: np.ndarray) -> np.ndarray:
        """Results of rows, computed by batches of one size, which the devices divide."""
        mesh = self._context.mesh
        size, out = -(-BATCH // mesh.size) * mesh.size, []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            out.append(np.asarray(run(jax.device_put(filled, batch_sharding(mesh))))[: len(part)])
        return np.concatenate(out)

    def _finished(self, stage: str) -> list[Cell]:
        """Its cells of a stage that were made to the end; on a grid there are several."""
        cells, result = Graph(self.settings).cells.values(), self._context.workdir.result
        return [cell for cell in cells if cell.stage == stage and result(cell.name) is not None]

    def tiles(self, split: str = "train") -> TileList:
        """Tiles that the run learned from, or that it made.

        >>> tiles = run.tiles("train")
        >>> tiles[0].image.shape, tiles[0].mask.dtype, tiles[0].patient
        ((32, 32, 3), dtype('uint8'), 'train0')

        Args:
          split: "train", "val", "test", "style", or the name of a synthesis set.

        Returns:
          A sequence of tiles (data/schema.py), each with `image`, `mask` (255: unlabeled),
          `patient`, `mpp` and `provenance`, read when it is asked for.

        Raises:
          UserError: there are no such tiles, as in an exported run.
        """
        context = self._context
        if split in self.settings.synthesis.sets:
            made = TileSet.open(self.path / context.cell(f"synthesis/{split}") / "tiles")
            rows, table = made.index("synthetic"), np.arange(256, dtype=np.uint8)
            return TileList(made, [(row.split, row.record) for row in rows], table)
        rows = context.rows(split)
        places = [(row.split, row.record) for row in rows]
        return TileList(context.packed_tiles, places, context.classes.table)


def _fixed(value: Any) -> Any:
    """A value that can be a key of a dictionary: tuples in place of lists and arrays."""
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_fixed(each) for each in value)
    return value
