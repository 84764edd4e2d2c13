"""Pictures whose pixels tell where they are."""

import cv2
import numpy as np
import tifffile


def waves(height: int, width: int) -> np.ndarray:
    """Smooth, and different everywhere."""
    y, x = np.mgrid[:height, :width]
    planes = (np.sin(x / 40), np.cos(y / 50), np.sin((x + y) / 70))
    return np.stack([127 + 90 * plane for plane in planes], -1).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Different in every pixel."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def halves(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """The image and its reductions by 2, 4, ..."""
    found = [image]
    for _ in range(levels - 1):
        height, width = found[-1].shape[:2]
        found.append(cv2.resize(found[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return found


def write_ome(
    path, image: np.ndarray, levels: int = 3, mpp: float = 0.25, unit: str = "µm", **options
) -> None:
    """An OME-TIFF with its smaller levels in SubIFDs."""
    pyramid = halves(image, levels)
    about = {
        "axes": "YXS",
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": unit,
    }
    options = {"tile": (64, 64), "photometric": "rgb"} | options
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pyramid[0], subifds=levels - 1, metadata=about, **options)
        for level in pyramid[1:]:
            file.write(level, subfiletype=1, **options)
