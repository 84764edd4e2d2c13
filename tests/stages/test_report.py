"""What the stage report takes from the folders of the others."""

import json

import numpy as np
from PIL import Image

from stedm_jax.stages.report import PICTURE, WHOSE, drawn


def test_the_last_picture_of_a_denoiser_at_most_so_large(tmp_path):
    cells = ["data", "generator/stedm"]
    assert not dict(drawn(tmp_path, cells))
    folder = tmp_path / "generator" / "stedm" / "images"
    folder.mkdir(parents=True)
    for step, value, side in ((2, 10, 8), (10, 200, 2 * PICTURE)):
        Image.fromarray(np.full((8, side, 3), value, np.uint8)).save(
            folder / f"samples-{step:08d}.png"
        )
    ((caption, picture),) = drawn(tmp_path, cells)
    assert caption.startswith("generator/stedm, step 10: layouts")
    assert "patient" not in caption
    (folder / WHOSE).write_text(
        json.dumps({"layouts": ["patient a", "patient b"], "styles": ["patient c"]})
    )
    assert next(drawn(tmp_path, cells))[0].endswith(
        "; layouts of patient a, patient b, styles of patient c"
    )
    assert picture.shape == (4, PICTURE, 3) and (picture == 200).all()
