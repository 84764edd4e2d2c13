"""A segmenter is loaded from a workdir as it was trained."""

import json

import numpy as np
import pytest

from configs.glas import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.data.stain import normalizer, stain_info
from stedm_jax.experiment.workdir import FORMAT
from stedm_jax.inference import trained_segmenter
from stedm_jax.inference.trained_segmenter import load_segmenter
from stedm_jax.settings.flat import flatten
from tests.inference.fakes import COLORS, segmenter

ABOUT = {
    "classes": ["stroma", "gland"],
    "colors": COLORS,
    "foreground": [1],
    "mpp": 1.0,
    "tile": 64,
    "stain": None,
    "learnt": {"segmentation": ["p1"]},
}


def write_run(folder, arms, trained=(), about=ABOUT):
    config = get_config()
    config.segmentation.arms = arms
    config.segmentation.train.eval_every = 1
    saved = flatten(config) | {"format": FORMAT}
    (folder / "config.json").write_text(json.dumps(saved))
    for arm, seed in trained:
        place = folder / f"segmentation/{arm}/{seed}"
        place.mkdir(parents=True)
        scores = {"arm": arm, "seed": seed, "confusion": {}}
        (place / "scores.json").write_text(json.dumps(scores))
    (folder / "segmenters.json").write_text(json.dumps(about))


def test_arms_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no workdir"):
        load_segmenter(tmp_path / "none", "labelled", None)
    write_run(tmp_path, {"mine": {"real": 1.0}})
    with pytest.raises(UserError, match="no trained arm 'mine'; trained are: none"):
        load_segmenter(tmp_path, "mine", None)
    write_run(tmp_path, {"mine": {"real": 1.0}}, [("other", 3)])
    with pytest.raises(UserError, match="arm 'other' with seed 1; trained are: other with seed 3"):
        load_segmenter(tmp_path, "other", 1)
    with pytest.raises(UserError, match="names no arm 'other' any more.*only mine"):
        load_segmenter(tmp_path, "other", 3)


@pytest.mark.parametrize("stained", [True, False])
def test_a_segmenter_gets_patches_in_the_stain_of_its_tiles(tmp_path, monkeypatch, stained):
    stain = stain_info(normalizer("reinhard").target) if stained else None
    write_run(tmp_path, {"mine": {"real": 1.0}}, [("mine", 0)], ABOUT | {"stain": stain})
    task = segmenter().task
    monkeypatch.setattr(task, "maps", lambda params, frozen, image: image)  # the patches it gets
    monkeypatch.setattr(trained_segmenter, "build_segmenter", lambda *_: task)
    monkeypatch.setattr(trained_segmenter, "restore", lambda *_, **__: ({}, None))
    patches = np.random.default_rng(0).integers(30, 200, (8, 32, 32, 3), dtype=np.uint8)
    one = load_segmenter(tmp_path, "mine")
    expected = np.stack([normalizer("reinhard")(patch) for patch in patches])
    np.testing.assert_array_equal(one.predict(patches), expected if stained else patches)
    assert (one.tile, one.mpp, one.names) == (64, 1.0, ("stroma", "gland"))
    assert one.learnt == {"segmentation": ["p1"]}


CHECKPOINTS = [("best", ("iou", "max")), ("both", ("iou", "max")), ("last", None)]


@pytest.mark.parametrize(("checkpoint", "best"), CHECKPOINTS)
def test_an_arm_is_used_at_the_checkpoint_that_it_names(tmp_path, monkeypatch, checkpoint, best):
    class Asked(Exception):
        pass

    def restore(context, task, cell, best=None):
        raise Asked(cell, best)

    arm = {"real": 1.0, "changes": (("checkpoint", checkpoint),)}
    write_run(tmp_path, {"mine": arm}, [("mine", 0)])
    monkeypatch.setattr(trained_segmenter, "restore", restore)
    with pytest.raises(Asked) as asked:
        load_segmenter(tmp_path, "mine")
    assert asked.value.args == ("segmentation/mine/0", best)
