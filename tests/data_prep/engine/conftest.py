"""Small slides with known labels: made-up tissue on glass, two classes, regions of interest."""

import json

import numpy as np
import pytest

from data_prep.tiff import write_pyramid

SIDE = 640


def square(name: str, x0: float, y0: float, x1: float, y1: float) -> dict:
    """A GeoJSON feature as QuPath writes it."""
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Five slides of 640 pixels, 0.5 um: tissue in the left 448 columns, tumour in its middle,
    stroma around it.

    a and b are of train, c of val, d of test, e of style. Treat as read-only.
    """
    folder = tmp_path_factory.mktemp("made")
    (folder / "slides").mkdir()
    (folder / "annotations").mkdir()
    rows = ["slide,patient,split,hospital"]
    for number, (name, split) in enumerate(
        zip("abcde", ("train", "train", "val", "test", "style"), strict=True)
    ):
        rng = np.random.default_rng(number)
        image = np.full((SIDE, SIDE, 3), 244, np.uint8)
        image[:, :448] = np.clip(rng.normal((190, 120, 175), 25, (SIDE, 448, 3)), 0, 255)
        write_pyramid(folder / "slides" / f"{name}.tif", image, mpp=0.5)
        rows.append(f"{name}.tif,P{name},{split},north")
        if split != "style":
            features = [square("Stroma", 40, 40, 440, 600), square("Tumor", 150, 200, 300, 420)]
            features.append(square("ROI", 100, 100, 400, 500))
            (folder / "annotations" / f"{name}.geojson").write_text(json.dumps(features))
    (folder / "t.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def options(made):
    """Options of data_prep.slides for those."""
    return {
        "slides": made / "slides",
        "annotations": made / "annotations",
        "table": made / "t.csv",
        "mpp": 1.0,
        "tile": 32,
        "workers": 1,
        "classes": "stroma=Stroma,tumour:#0a0b0c=Tumor",
        "ignore": "ROI",
        "name": "made",
    }
