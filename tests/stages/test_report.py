"""What the stage report takes from the folders of the others."""

import json

import numpy as np
import pytest
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.stages.report import PICTURE, WHOSE, drawn, preview
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny


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
    assert caption.startswith("generator stedm, step 10: layouts")
    assert "patient" not in caption
    (folder / WHOSE).write_text(
        json.dumps({"layouts": ["patient a", "patient b"], "styles": ["patient c"]})
    )
    assert next(drawn(tmp_path, cells))[0].endswith(
        "; layouts of patient a, patient b, styles of patient c"
    )
    assert picture.shape == (4, PICTURE, 3) and (picture == 200).all()


def test_a_preview_shows_what_is_done_and_how_much_that_is(tile_set, tmp_path, capsys):
    context = Context(tiny(tile_set.path), Workdir(tmp_path / "run"), make_mesh())
    with pytest.raises(UserError, match="nothing to show"):
        preview(context)
    (context.workdir.folder("data") / "done.json").write_text('{"seconds": 1}')
    (context.workdir.path / "versions.json").write_text("{}")
    scores = {"val": {"val0": [[9, 1], [1, 9]]}, "test": {"test0": [[9, 1], [1, 9]]}}
    one = {"arm": "labelled", "seed": 0, "confusion": scores}
    (context.workdir.folder("segmentation/labelled/0") / "scores.json").write_text(json.dumps(one))
    preview(context)
    page = (tmp_path / "run" / "preview" / "index.html").read_text()
    assert f"A preview: 1 of {len(Graph(context.settings).goals)} cells are done" in page
    assert "labelled" in (tmp_path / "run" / "preview" / "table.txt").read_text()
    assert "preview" in capsys.readouterr().out and not (tmp_path / "run" / "report").exists()
