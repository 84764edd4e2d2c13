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


def write_aperio(path, image: np.ndarray, levels: int = 3, mpp: float = 0.25) -> None:
    """A pyramid of JPEG tiles as Aperio's scanners write it."""
    about = f"Aperio Image Library v1\r\n{image.shape[1]}x{image.shape[0]}|AppMag = 40|MPP = {mpp}"
    with tifffile.TiffWriter(path) as file:
        for level in halves(image, levels):
            file.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 95},
                description=about,
                metadata=None,
            )


SCN = """<?xml version="1.0" encoding="utf-8"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">
<collection name="c" uuid="u" sizeX="{0}" sizeY="{1}"><barcode>MTIz</barcode>{2}{3}</collection>
</scn>"""
SCN_IMAGE = """<image name="x" uuid="u"><creationDate>2020-01-01T00:00:00Z</creationDate>
<device model="m" version="v"/><pixels sizeX="{0}" sizeY="{1}">{2}</pixels>
<view sizeX="{3}" sizeY="{4}" offsetX="{5}" offsetY="{6}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>{7}</objective></objectiveSettings>
<illuminationSettings><numericalAperture>0.7</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""


def write_scn(
    path, image: np.ndarray, corner: tuple[int, int], full: tuple[int, int], mpp: float = 0.5
) -> None:
    """A slide of Leica, which says at which x, y of the glass of some width and height the image
    was scanned."""
    nm = int(mpp * 1000)
    glass = np.full((full[1] // 4, full[0] // 4, 3), 235, np.uint8)
    entry = '<dimension sizeX="{}" sizeY="{}" r="{}" ifd="{}"/>'
    size, levels = image.shape[1::-1], halves(image, 2)
    inner = "".join(entry.format(*part.shape[1::-1], i, i + 1) for i, part in enumerate(levels))
    macro = SCN_IMAGE.format(
        *size, entry.format(*glass.shape[1::-1], 0, 0), *(side * nm for side in full), 0, 0, 0.6
    )
    scan = SCN_IMAGE.format(*size, inner, *(side * nm for side in (*size, *corner)), 20)
    about = SCN.format(full[0] * nm, full[1] * nm, macro, scan)
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib", "metadata": None}
    options |= {"resolutionunit": "CENTIMETER", "software": False}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for part, down, text in zip([glass, *levels], (4, 1, 2), (about, "", ""), strict=True):
            resolution = 1e4 / mpp / down
            file.write(part, description=text, resolution=(resolution, resolution), **options)
