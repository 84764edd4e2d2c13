"""Maps of slides as OME-Zarr, written band by band; needs the extra `zarr`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stedm_jax.common.files import atomic_folder
from stedm_jax.imaging.find_images import RESULT
from stedm_jax.inference.pyramids import TILE, Levels


def write_ome_zarr(path: Path, levels: Levels, mpp: float, about: Mapping[str, str]) -> None:
    """Writes the pyramid of a plane as an OME-Zarr image, complete or not at all.

    Args:
      path: of its folder.
      levels: of one plane each (pyramids.levels_of).
      mpp: microns per pixel of level 0.
      about: what else is noted, such as the names of class ids.
    """
    import zarr
    from ome_zarr.writer import write_multiscales_metadata

    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    with atomic_folder(path) as partial:
        group = zarr.open_group(partial, mode="w", attributes={"written_by": RESULT.decode()})
        datasets = []
        for number, (plane,) in enumerate(levels):
            height, width = plane.shape
            array = group.create_array(
                str(number), shape=(height, width), chunks=(TILE, TILE), dtype=np.uint8
            )
            for top in range(0, height, TILE):
                rows = slice(top, min(top + TILE, height))
                array[rows] = plane[rows]
            scale = [mpp * 2.0**number] * 2
            transformations = [{"type": "scale", "scale": scale}]
            datasets.append({"path": str(number), "coordinateTransformations": transformations})
        write_multiscales_metadata(group, datasets, axes=axes, name=path.name)
        group.attrs["classes"] = dict(about)
