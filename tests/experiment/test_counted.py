"""The checkpoint of a segmenter that counts."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.from_run import read_run
from stedm_jax.experiment.counted import BEST, best_of, best_of_cell, scored_checkpoints
from stedm_jax.experiment.init_weights import _read
from stedm_jax.settings.segmentation import Segmentation
from stedm_jax.settings.ssl import Ssl
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.state import TrainState

CELL = "segmentation/mine/0"
RUN = {
    "format": 2,
    "name": "made",
    "segmentation.train.steps": 2,
    "segmentation.train.eval_every": 1,
    "segmentation.arms.mine.real": 1.0,
    "segmentation.arms.mine.stain_jitter": 0.0,
}


@pytest.fixture(params=["last", "best", "both"])
def run(tmp_path, request):
    """A segmenter with a better first checkpoint (weight 1) than the last (2); what counts."""
    folder = tmp_path / CELL
    store = Checkpoints(folder / "checkpoints", keep=1, best=BEST)
    for step, iou in ((1, 0.9), (2, 0.4)):
        params = {"head": {"w": jnp.full(3, step, jnp.float32)}}
        store.save(step, TrainState(jnp.int32(step), params, {}, {"n": jnp.ones(1)}), {"iou": iou})
    store.close()
    saved = RUN | {"segmentation.checkpoint": request.param}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    reads = {"segmentation.checkpoint": request.param}
    (folder / "cell.json").write_text(json.dumps({"stamp": "", "reads": reads, "needs": []}))
    return folder, 2.0 if request.param == "last" else 1.0


def test_another_training_starts_from_the_checkpoint_that_counts(run):
    folder, counts = run
    leaves, origin = _read(str(folder), "", "init_from")
    np.testing.assert_array_equal(leaves["head/w"], counts)
    assert origin == f"{folder}, step {counts:.0f}"


def test_the_checkpoint_that_counts_is_exported(run, monkeypatch):
    folder, counts = run
    monkeypatch.setattr("stedm_jax.convert.from_run.check_made_with", lambda *_: None)
    made = read_run(folder)
    np.testing.assert_array_equal(made.parts["head"]["w"], counts)
    assert made.card["step"] == counts


def test_both_checkpoints_are_scored_and_the_best_counts():
    section = Segmentation(checkpoint="both")
    assert scored_checkpoints(section) == ("best", "last") and best_of(section) == BEST
    assert scored_checkpoints(Segmentation()) == ("last",) and best_of(Segmentation()) is None
    assert best_of(Ssl()) is None


def test_without_cell_json_the_last_checkpoint_counts(tmp_path):
    assert best_of_cell(tmp_path) is None
