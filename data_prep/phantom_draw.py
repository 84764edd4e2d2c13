"""Draws a phantom slide: amounts of hematoxylin and eosin from the geometry, then RGB from the
stain. Planes are float32; plain Python numbers keep them so."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy.random import Generator

from data_prep.phantom_stain import Stain
from data_prep.phantom_tissue import CAPSULE, GRID, MPP, Field, Nuclei, Tissue, smooth_noise

Plane = Float32[np.ndarray, "s s"]
Band = Float32[np.ndarray, "h w"]


class Kind(NamedTuple):
    """How the nuclei of a kind look.

    Attributes:
      length, spread: of the long axis, in microns and of its logarithm.
      ratio, ratio_spread: of the short axis to the long one.
      dark: darkness of 255.
      nucleolus: whether they have one.
    """

    length: float
    spread: float
    ratio: float
    ratio_spread: float
    dark: int
    nucleolus: bool = False


KINDS = {
    "tumor": Kind(10.2, 0.13, 0.76, 0.10, 200, nucleolus=True),
    "lymphocyte": Kind(6.0, 0.07, 0.93, 0.05, 240),
    "fibroblast": Kind(12.5, 0.20, 0.25, 0.05, 185),
    "debris": Kind(2.8, 0.35, 0.70, 0.20, 150),
}
SHAPES = 96
"""Different nuclei of a kind; orientation is one of them, so that they are sorted by it."""
PATCH = 1024
"""Side in pixels of the textures that are repeated over the slide."""


def _scaled(plane: Plane, scale: int, shift: float, rows: tuple[int, int]) -> Band:
    """Rows [first, last) of a plane at level 0; its pixel i lies at `scale * i + shift` there."""
    matrix = np.array([[scale, 0, shift], [0, scale, shift - rows[0]]], np.float32)
    shape = (plane.shape[1] * scale, rows[1] - rows[0])
    return cv2.warpAffine(
        plane, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def enlarge(field: Field, rows: tuple[int, int]) -> Band:
    """Rows [first, last) of a coarse field at level 0; its grid points are the pixels 0, GRID, 2
    GRID, ..."""
    return _scaled(field, GRID, 0.0, rows)


def _soft(field: Band, width: float) -> Band:
    """0 outside, 1 inside, with an edge `width` microns wide."""
    return np.clip(field * (1 / width) + 0.5, 0, 1)


def _nucleus(
    rng: Generator, kind: Kind, angle: float, chromatin: float
) -> UInt8[np.ndarray, "a a"]:
    """One nucleus as a stamp of hematoxylin amounts (255 is the darkest), centered."""
    long = kind.length / MPP / 2 * np.exp(rng.normal(0, kind.spread))
    short = long * np.clip(rng.normal(kind.ratio, kind.ratio_spread), 0.15, 1)
    half = int(np.ceil(long * 1.25)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    v = v + rng.normal(0, 0.08) * u * np.abs(u) / long
    turn = np.arctan2(v / short, u / long)
    edge = 1 + sum(rng.normal(0, 0.05) * np.cos(n * turn + rng.uniform(0, 6.3)) for n in (2, 3, 4))
    radius = np.hypot(u / long, v / short) / edge
    inside = np.clip((1 - radius) * short / 1.2 + 0.5, 0, 1)
    grain = cv2.GaussianBlur(rng.standard_normal(x.shape).astype(np.float32), (0, 0), 1.4) * 3
    body = 0.84 + 0.14 * chromatin * grain + 0.16 * (radius > 0.72)
    if kind.nucleolus:
        right, down = rng.uniform(-0.35, 0.35, 2)
        squares = (u - right * long) ** 2 + (v - down * short) ** 2
        body += 0.45 * chromatin * np.exp(-squares / 4.0)
    return np.clip(inside * body * kind.dark * rng.normal(1, 0.09), 0, 255).astype(np.uint8)


def stamp_nuclei(
    rng: Generator, nuclei: dict[str, Nuclei], size: int, chromatin: float
) -> UInt8[np.ndarray, "s s"]:
    """Draws all nuclei, the darkest on top.

    Args:
      rng: source of randomness.
      nuclei: kind -> nuclei.
      size: side of the slide.
      chromatin: contrast within nuclei.

    Returns:
      Hematoxylin of the nuclei, 255 the darkest.
    """
    border = 64
    plane = np.zeros((size + 2 * border, size + 2 * border), np.uint8)
    for kind, group in nuclei.items():
        bank = [_nucleus(rng, KINDS[kind], np.pi * i / SHAPES, chromatin) for i in range(SHAPES)]
        shape = np.round(group.angle / np.pi * SHAPES).astype(int) % SHAPES
        center = np.round(group.xy).astype(int) + border
        for (x, y), i in zip(center.tolist(), shape.tolist(), strict=True):
            side = len(bank[i])
            x0, y0 = max(x - side // 2, 0), max(y - side // 2, 0)
            window = plane[y0 : y0 + side, x0 : x0 + side]
            np.maximum(window, bank[i][: window.shape[0], : window.shape[1]], out=window)
    return plane[border:-border, border:-border]


def _fibers(rng: Generator, tissue: Tissue) -> Plane:
    """Collagen: a texture stretched along the fibers, 0 (cleft) to 1; at 1 um per pixel."""
    grain = np.pad(rng.standard_normal((PATCH, PATCH)).astype(np.float32), 64, mode="wrap")
    fine = cv2.GaussianBlur(grain, (0, 0), sigmaX=5, sigmaY=1.1)[64:-64, 64:-64]
    coarse = cv2.GaussianBlur(np.roll(grain, 99, 0), (0, 0), sigmaX=12, sigmaY=3.2)[64:-64, 64:-64]
    texture = fine / fine.std() * 0.6 + coarse / coarse.std() * 0.8
    half = tuple(side * GRID // 2 for side in tissue.across.shape)
    along, across, capsule = (
        cv2.resize(field, half) for field in (tissue.along, tissue.across, tissue.capsule)
    )
    x = np.mod(along * 0.4, PATCH)
    waves, rings = (
        cv2.remap(texture, x, np.mod(y, PATCH), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        for y in (across * 0.9, capsule)
    )
    waves += (rings - waves) * _soft(CAPSULE - capsule, 8.0)
    return 1 / (1 + cv2.exp((waves + 0.7) * -2.2))


def _grain(rng: Generator, sigma: float) -> Plane:
    """A patch of noise of deviation 1 and grain `sigma` pixels, to be repeated."""
    noise = rng.standard_normal((PATCH, PATCH)).astype(np.float32)
    if sigma:
        noise = cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return noise / noise.std()


class Painter:
    """Paints a slide in bands of rows, so that little of it is ever held as floating point.

    Args:
      rng: source of randomness.
      tissue, nuclei: the geometry.
      stain: the look.
    """

    def __init__(self, rng: Generator, tissue: Tissue, nuclei: dict[str, Nuclei], stain: Stain):
        side = tissue.tissue.shape[0]
        self.tissue, self.stain, self.size = tissue, stain, side * GRID
        self.solid = np.minimum(tissue.tissue, -tissue.lumen)
        self.uneven = 1 + stain.uneven * smooth_noise(rng, side, 90.0)
        self.nuclei = stamp_nuclei(rng, nuclei, self.size, stain.chromatin)
        small = cv2.resize(self.nuclei, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        halo = np.minimum(cv2.GaussianBlur(small, (0, 0), 3.5), 80)
        self.halo = halo.astype(np.float32) * (1 / 80)
        self.fibers = _fibers(rng, tissue)
        self.rough, self.lumps, self.noise = (_grain(rng, sigma) for sigma in (1.6, 3.5, 0.0))

    def _repeat(self, patch: Plane, rows: tuple[int, int]) -> Band:
        """Rows of a repeated patch of noise."""
        return np.take(patch[np.arange(*rows) % PATCH], np.arange(self.size) % PATCH, axis=1)

    def amounts(self, rows: tuple[int, int]) -> tuple[Band, Band]:
        """Hematoxylin and eosin of rows [first, last), before the intensities of the patient."""
        tumor = _soft(enlarge(self.tissue.tumor, rows), 3.0)
        necrosis = _soft(enlarge(self.tissue.necrosis, rows), 8.0)
        lymph = _soft(enlarge(self.tissue.lymph, rows), 10.0)
        halo, fibers = (_scaled(plane, 2, 0.5, rows) for plane in (self.halo, self.fibers))
        rough, lumps = self._repeat(self.rough, rows), self._repeat(self.lumps, rows)
        eosin = 0.70 + (fibers - 0.74) * (0.95 * self.stain.fibre)
        eosin = np.maximum(eosin, 0) * (1 - 0.5 * lymph)
        cell = 0.30 + 0.34 * halo + 0.035 * rough
        eosin += (cell - eosin) * tumor
        dead = 0.68 + 0.10 * rough + 0.13 * lumps
        eosin += (dead - eosin) * necrosis
        hematoxylin = 0.04 + tumor * (0.13 + 0.10 * halo)
        hematoxylin += (0.10 - hematoxylin) * necrosis
        nucleus = self.nuclei[slice(*rows)].astype(np.float32) * (1 / 255)
        amount = _soft(enlarge(self.solid, rows), 2.0) * enlarge(self.uneven, rows)
        hematoxylin = (hematoxylin + 1.45 * nucleus) * amount
        eosin *= (1 - 0.6 * nucleus) * amount
        return hematoxylin, eosin

    def band(self, first: int, last: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB of rows [first, last) by equations (1) and (2) of phantom_stain, then blur and camera
        noise."""
        margin = 8
        rows = (max(first - margin, 0), min(last + margin, self.size))
        hematoxylin, eosin = self.amounts(rows)
        h, e = (vector.tolist() for vector in self.stain.vectors())
        image = np.empty((last - first, self.size, 3), np.uint8)
        noise = self._repeat(self.noise, (first, last)) * self.stain.noise
        for channel in range(3):
            density = hematoxylin * (-h[channel] * self.stain.h_gain)
            density += eosin * (-e[channel] * self.stain.e_gain)
            light = cv2.exp(density) * self.stain.white[channel]
            light = cv2.GaussianBlur(light, (0, 0), self.stain.blur)
            light = light[first - rows[0] : last - rows[0]] + np.roll(noise, 211 * channel, 1)
            image[..., channel] = np.clip(light + 0.5, 0, 255)
        return image

    def image(self, step: int = 256) -> UInt8[np.ndarray, "s s 3"]:
        """RGB of the whole slide."""
        bands = [self.band(y, min(y + step, self.size)) for y in range(0, self.size, step)]
        return np.concatenate(bands)
