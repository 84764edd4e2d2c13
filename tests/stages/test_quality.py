"""What a set is measured by: the tiles of its layouts, and real tiles of its style patients."""

import json
from collections.abc import Hashable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.evaluation.synthesis_quality.metric import LAYOUTS
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encoders import Encoder
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.stages import quality, synthesis
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny


@pytest.fixture
def run(tile_set, tmp_path):
    """A run that has made a set by color transfer, and the cell of its quality."""
    settings = tiny(tile_set.path, synthesis__sets={"s": {"method": "reinhard"}})
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    graph = Graph(settings)
    synthesis.run(context, graph["synthesis/s"], None)
    return context, graph["quality/s"]


def made(context):
    tiles = TileSet.open(context.workdir.path / "synthesis" / "s" / "tiles")
    return [tiles.read(SYNTHETIC, row.record) for row in tiles.index(SYNTHETIC)]


def test_the_judge_sees_the_tiles_of_the_layouts_as_often_as_they_were_drawn(run, monkeypatch):
    context, cell = run
    seen = []

    def confusion(context, learner, name, params, rows):
        seen.append(rows.rows)
        return {name: [[1, 0], [0, len(seen)]] for name in rows.patients}

    monkeypatch.setattr(Learned, "judge", (None, None))
    monkeypatch.setattr(quality, "confusion_of", confusion)
    monkeypatch.setattr(quality, "learner_of", lambda *_: None)
    folder = context.workdir.folder("judge")
    (folder / "scores.json").write_text(json.dumps({"confusion": {"val": {}, "test": {}}}))
    for _ in range(2):
        judgment = quality._judgment(context, cell, Learned(context))
    wanted = [int(tile.provenance["layout_record"]) for tile in made(context)]
    assert [row.record for row in seen[1]] == wanted and {r.split for r in seen[1]} == {"train"}
    assert len(seen) == 3  # the synthetic tiles twice, the layouts once
    assert {name for name in judgment.confusion} == {"val", "test", SYNTHETIC, LAYOUTS}


def test_real_tiles_are_those_of_the_style_patients(run):
    context, _ = run
    found = list(quality._real(context, "s"))
    rows = context.rows("style")
    assert {tile.key for tile in found} == {("style", row.record) for row in rows}
    by_key: dict[Hashable, IndexRow] = {("style", row.record): row for row in rows}
    for tile in found:
        assert by_key[tile.key].patient == tile.patient
        np.testing.assert_array_equal(tile.image, context.reader.read(by_key[tile.key])[0])


def test_masks_of_another_origin_have_no_tiles_of_layouts(run):
    context, _ = run
    rows = quality.synthetic_rows(context, "s").rows
    assert len(quality._layouts(context, "s", rows)) == len(rows)
    pseudo = [replace(row, patient=row.style_patient) for row in rows]
    assert quality._layouts(context, "s", pseudo) == []


def test_features_are_compared_where_the_report_names_an_encoder(run, monkeypatch):
    """With patients of val and test, and their files are kept for other sets of the run."""
    context, cell = run
    mean = Encoder("mean", "1", {}, lambda _, x: x.astype(jnp.float32).mean((1, 2)))
    monkeypatch.setattr(quality, "_encoder", lambda *_: mean)
    quality.run(context, cell, Learned(context))
    numbers = json.loads((context.workdir.path / cell.name / "quality.json").read_text())
    rows = [row for split in ("val", "test") for row in context.rows(split)]
    assert numbers["held_out_tiles"] == len(rows) and numbers["frechet"] >= 0
    assert len(list((context.workdir.path / "features").iterdir())) == 3


def test_only_named_features_enter_the_stamp():
    plain = Graph(tiny("t"))["quality/synthetic"]
    named = Graph(tiny("t", report__features="judge"))["quality/synthetic"]
    assert set(plain.reads) == {"metrics"}
    assert set(named.reads) > {"metrics", "comparisons", "report.features"}


def test_every_number_of_a_set_is_written(run):
    context, cell = run
    quality.run(context, cell, Learned(context))
    numbers = json.loads((context.workdir.path / cell.name / "quality.json").read_text())
    assert numbers["n_images"] == context.settings.synthesis.count
    names = ("style_error", "style_error_real", "style_slope", "style_slope_real", "kept_detail")
    assert all(np.isfinite(numbers[name]) for name in names)
    assert numbers["layout_iou_real"] is None or np.isnan(numbers["layout_iou_real"])
