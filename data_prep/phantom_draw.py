"""Draws a phantom slide: amounts of haematoxylin and eosin from the geometry, then RGB from the
stain."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.phantom_stain import Stain
from data_prep.phantom_tissue import CAPSULE, GRID, MPP, Field, Nuclei, Tissue, smooth_noise

KINDS = {
    # long axis, spread, short/long (mean, spread), darkness of 255, nucleolus
    "tumour": (10.2, 0.13, 0.76, 0.10, 200, True),
    "lymphocyte": (6.0, 0.07, 0.93, 0.05, 240, False),
    "fibroblast": (12.5, 0.20, 0.25, 0.05, 185, False),
    "debris": (2.8, 0.35, 0.70, 0.20, 150, False),
}
SHAPES = 96
"""Different nuclei of a kind; orientation is one of them, so that they are sorted by it."""
Plane = Float32[np.ndarray, "s s"]
Band = Float32[np.ndarray, "h w"]


def enlarge(field: Field, rows: tuple[int, int]) -> Band:
    """Rows [first, last) of a coarse field at level 0; its grid points are the pixels 0, GRID, 2
    GRID, ..."""
    matrix = np.array([[GRID, 0, 0], [0, GRID, -rows[0]]], np.float32)
    shape = (field.shape[1] * GRID, rows[1] - rows[0])
    return cv2.warpAffine(
        field, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _soft(field: Band, width: float) -> Band:
    """0 outside, 1 inside, with an edge `width` microns wide."""
    return np.clip(field * np.float32(1 / width) + np.float32(0.5), 0, 1)


def _nucleus(
    rng: np.random.Generator, kind: str, angle: float, chromatin: float
) -> UInt8[np.ndarray, "a a"]:
    """One nucleus as a stamp of haematoxylin amounts (255 is the darkest), centred."""
    length, spread, ratio, ratio_spread, dark, nucleolus = KINDS[kind]
    long = length / MPP / 2 * np.exp(rng.normal(0, spread))
    short = long * np.clip(rng.normal(ratio, ratio_spread), 0.15, 1)
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
    if nucleolus:
        at = rng.uniform(-0.35, 0.35, 2)
        body += (
            0.45 * chromatin * np.exp(-((u - at[0] * long) ** 2 + (v - at[1] * short) ** 2) / 4.0)
        )
    return np.clip(inside * body * dark * rng.normal(1, 0.09), 0, 255).astype(np.uint8)


def stamp_nuclei(
    rng: np.random.Generator, nuclei: dict[str, Nuclei], size: int, chromatin: float
) -> UInt8[np.ndarray, "s s"]:
    """Draws all nuclei, darkest on top.

    Args:
      rng: source of randomness.
      nuclei: kind -> nuclei.
      size: side of the slide.
      chromatin: contrast within nuclei.

    Returns:
      Haematoxylin of the nuclei, 255 the darkest.
    """
    border = 64
    plane = np.zeros((size + 2 * border, size + 2 * border), np.uint8)
    for kind, group in nuclei.items():
        bank = [_nucleus(rng, kind, np.pi * i / SHAPES, chromatin) for i in range(SHAPES)]
        shape = np.round(group.angle / np.pi * SHAPES).astype(int) % SHAPES
        corner = np.round(group.xy).astype(int) + border
        for (x, y), i in zip(corner.tolist(), shape.tolist(), strict=True):
            stamp = bank[i]
            half = stamp.shape[0] // 2
            x0, y0 = max(x - half, 0), max(y - half, 0)
            window = plane[y0 : y0 + stamp.shape[0], x0 : x0 + stamp.shape[1]]
            np.maximum(window, stamp[: window.shape[0], : window.shape[1]], out=window)
    return plane[border:-border, border:-border]


def _fibres(rng: np.random.Generator, tissue: Tissue) -> Plane:
    """Collagen: a texture stretched along the fibres, 0 (cleft) to 1; at 1 um per pixel."""
    side = 1024
    grain = np.pad(rng.standard_normal((side, side)).astype(np.float32), 64, mode="wrap")
    fine = cv2.GaussianBlur(grain, (0, 0), sigmaX=5, sigmaY=1.1)[64:-64, 64:-64]
    coarse = cv2.GaussianBlur(np.roll(grain, 99, 0), (0, 0), sigmaX=12, sigmaY=3.2)[64:-64, 64:-64]
    texture = fine / fine.std() * np.float32(0.6) + coarse / coarse.std() * np.float32(0.8)
    half = tuple(side * GRID // 2 for side in tissue.across.shape)
    along, across, capsule = (
        cv2.resize(field, half) for field in (tissue.along, tissue.across, tissue.capsule)
    )
    x = np.mod(along * np.float32(0.4), np.float32(side))
    waves, rings = (
        cv2.remap(
            texture, x, np.mod(y, np.float32(side)), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        for y in (across * np.float32(0.9), capsule)
    )
    near = _soft(np.float32(CAPSULE) - capsule, 8.0)
    waves += (rings - waves) * near
    return 1 / (1 + cv2.exp((waves + np.float32(0.7)) * np.float32(-2.2)))


def _grain(rng: np.random.Generator, sigma: float) -> Plane:
    """A patch of noise of deviation 1 and grain `sigma` pixels, to be repeated."""
    side = 1024
    noise = rng.standard_normal((side, side)).astype(np.float32)
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

    def __init__(
        self, rng: np.random.Generator, tissue: Tissue, nuclei: dict[str, Nuclei], stain: Stain
    ):
        self.tissue, self.stain, self.size = tissue, stain, tissue.tissue.shape[0] * GRID
        self.solid = np.minimum(tissue.tissue, -tissue.lumen)
        self.uneven = 1 + np.float32(stain.uneven) * smooth_noise(rng, self.size // GRID, 90.0)
        self.nuclei = stamp_nuclei(rng, nuclei, self.size, stain.chromatin)
        small = cv2.resize(self.nuclei, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        self.halo = np.minimum(cv2.GaussianBlur(small, (0, 0), 3.5), 80).astype(
            np.float32
        ) * np.float32(1 / 80)
        self.fibres = _fibres(rng, tissue)
        self.rough, self.lumps, self.noise = _grain(rng, 1.6), _grain(rng, 3.5), _grain(rng, 0.0)

    def _half(self, plane: Plane, rows: tuple[int, int]) -> Band:
        """Rows of a plane kept at half the resolution."""
        matrix = np.array([[2, 0, 0.5], [0, 2, 0.5 - rows[0]]], np.float32)
        shape = (self.size, rows[1] - rows[0])
        return cv2.warpAffine(
            plane, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    def _repeat(self, patch: Plane, rows: tuple[int, int]) -> Band:
        """Rows of a repeated patch of noise."""
        band = patch[np.arange(*rows) % patch.shape[0]]
        return np.tile(band, (1, self.size // patch.shape[1] + 1))[:, : self.size]

    def amounts(self, rows: tuple[int, int]) -> tuple[Band, Band]:
        """Haematoxylin and eosin of rows [first, last), before the intensities of the patient."""
        f = np.float32
        tumour = _soft(enlarge(self.tissue.tumour, rows), 3.0)
        necrosis = _soft(enlarge(self.tissue.necrosis, rows), 8.0)
        lymph = _soft(enlarge(self.tissue.lymph, rows), 10.0)
        rough, halo = self._repeat(self.rough, rows), self._half(self.halo, rows)
        eosin = f(0.70) + (self._half(self.fibres, rows) - f(0.74)) * f(0.95 * self.stain.fibre)
        eosin = np.maximum(eosin, 0) * (1 - f(0.5) * lymph)
        cell = f(0.30) + f(0.34) * halo + f(0.035) * rough
        eosin += (cell - eosin) * tumour
        dead = f(0.68) + f(0.10) * rough + f(0.13) * self._repeat(self.lumps, rows)
        eosin += (dead - eosin) * necrosis
        haematoxylin = f(0.04) + tumour * (f(0.13) + f(0.10) * halo)
        haematoxylin += (f(0.10) - haematoxylin) * necrosis
        nucleus = self.nuclei[slice(*rows)].astype(np.float32) * f(1 / 255)
        amount = _soft(enlarge(self.solid, rows), 2.0) * enlarge(self.uneven, rows)
        haematoxylin = (haematoxylin + f(1.45) * nucleus) * amount
        eosin *= (1 - f(0.6) * nucleus) * amount
        return haematoxylin, eosin

    def band(self, first: int, last: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB of rows [first, last) by equations (1) and (2) of phantom_stain, then blur and camera
        noise."""
        margin = 8
        rows = (max(first - margin, 0), min(last + margin, self.size))
        haematoxylin, eosin = self.amounts(rows)
        h, e = self.stain.vectors()
        image = np.empty((last - first, self.size, 3), np.uint8)
        noise = self._repeat(self.noise, (first, last)) * np.float32(self.stain.noise)
        for channel in range(3):
            density = haematoxylin * np.float32(-h[channel] * self.stain.h_gain)
            density += eosin * np.float32(-e[channel] * self.stain.e_gain)
            light = cv2.exp(density) * np.float32(self.stain.white[channel])
            light = cv2.GaussianBlur(light, (0, 0), self.stain.blur)[first - rows[0] :][
                : last - first
            ]
            light = light + np.roll(noise, 211 * channel, 1)
            image[..., channel] = np.clip(light + np.float32(0.5), 0, 255)
        return image

    def image(self, step: int = 256) -> UInt8[np.ndarray, "s s 3"]:
        """RGB of the whole slide."""
        bands = [self.band(y, min(y + step, self.size)) for y in range(0, self.size, step)]
        return np.concatenate(bands)
