"""Which tiles an arm learns from, and at which shares."""

from dataclasses import replace

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data import records
from stedm_jax.data.pipeline import training_batches
from stedm_jax.experiment.arm_tiles import (
    arm_dataset,
    check_labelled,
    learned_patients,
)
from stedm_jax.experiment.check import check_cells
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.training.sharding import make_mesh
from tests.conftest import make_tile, written
from tests.experiment.settings import tiny

BOTH = (("train", 1.0), ("style", 3.0))


def flat(split, patient, number, value, label=0):
    """A tile of one gray value."""
    image = np.full((32, 32, 3), value, np.uint8)
    return make_tile(split, patient, number, image=image, mask=np.full((32, 32), label, np.uint8))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a context with one arm; real tiles of train and style and two sets have gray values of
    their own, and style tiles are labelled or not."""
    check = records.check_tile
    monkeypatch.setattr(  # it refuses labels of the split style
        records, "check_tile", lambda tile, *rest: check(replace(tile, split="train"), *rest)
    )

    def made(labelled=True, **arm):
        label = 0 if labelled else 255
        tiles = [flat("train", "t", n, 10) for n in range(4)]
        tiles += [flat("style", "s", n, 20, label) for n in range(8)]
        tiles += [flat(split, split, n, 0) for split in ("val", "test") for n in range(2)]
        written(tmp_path / "tiles", tiles, overwrite=True)
        for name, value in (("one", 30), ("two", 40)):
            own = {"provenance": {"style_patient": f"of {name}"}}
            rows = [
                make_tile("synthetic", "t", n, image=np.full((32, 32, 3), value, np.uint8), **own)
                for n in range(3)
            ]
            folder = tmp_path / f"run/synthesis/{name}"
            folder.mkdir(parents=True, exist_ok=True)
            written(folder / "tiles", rows, overwrite=True)
        sets = {name: {"generator": "stedm"} for name in ("one", "two")}
        arms = {"a": {"real": 0.5, "stain_jitter": 0.0, **arm}}
        changes = {"synthesis__sets": sets, "segmentation__arms": arms, "data__shares": ()}
        settings = tiny(tmp_path / "tiles", **changes)
        return Context(settings, Workdir(tmp_path / "run"), make_mesh())

    return made


def drawn(context, count=2):
    """The images of the first batches of 16."""
    batches = training_batches(arm_dataset(context, "a", 0)[0], batch=16, start=0)
    return [next(batches)["image"] for _ in range(count)]


@pytest.mark.parametrize(
    ("arm", "wanted"),
    [
        ({"real": 1.0}, {10: 16}),
        ({"real": 1.0, "splits": BOTH}, {10: 4, 20: 12}),
        ({"set": "two"}, {10: 8, 40: 8}),
        ({"sets": (("one", 1.0), ("two", 3.0))}, {10: 8, 30: 2, 40: 6}),
        ({"real": 0.0, "sets": (("one", 1.0), ("two", 1.0))}, {30: 8, 40: 8}),
        ({"splits": BOTH, "set": "one"}, {10: 2, 20: 6, 30: 8}),
    ],
)
def test_every_batch_has_each_kind_at_its_share(make, arm, wanted):
    for batch in drawn(make(**arm)):
        values, counts = np.unique(batch[:, 0, 0, 0], return_counts=True)
        assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("real", [0.0, 0.5])
def test_the_last_steps_draw_real_tiles_alone_also_after_a_restart(make, real):
    context = make(real=real, set="one", splits=BOTH, then_real=1)
    steps, size = (getattr(context.settings.segmentation.train, key) for key in ("steps", "batch"))
    dataset, _ = arm_dataset(context, "a", 7)

    def batches(start):
        made = training_batches(dataset, batch=size, start=start)
        return [next(made)["image"] for _ in range(start, steps + 1)]

    whole, resumed = batches(0), batches(steps - 2)
    for one, other in zip(whole[steps - 2 :], resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    made = [(batch[:, 0, 0, 0] == 30).mean() for batch in whole]
    assert made == [1.0 - real] * (steps - 1) + [0.0, 0.0]
    assert np.mean([(batch[:, 0, 0, 0] == 20).mean() for batch in whole[-2:]]) == 0.75


def test_stain_jitter_is_of_synthetic_tiles_too(make):
    assert set(np.unique(drawn(make(real=0.0, set="one"))[0])) == {30}
    jittered = drawn(make(real=0.0, set="one", stain_jitter=0.5))[0]
    assert len({image.tobytes() for image in jittered}) > 8


def test_a_split_without_labels_is_refused_before_and_in_training(make):
    context = make(labelled=False, real=1.0, splits=BOTH)
    says = "arms.a.splits names 'style', and the tiles in .* have no labels there"
    with pytest.raises(UserError, match=says):
        arm_dataset(context, "a", 0)
    with pytest.raises(UserError, match=says):
        check_cells(context, ["segmentation/a/0"])
    check_labelled(make(labelled=False, real=1.0), "a")


def test_an_arm_learns_from_the_patients_of_its_splits_layouts_and_styles(make):
    assert learned_patients(make(real=1.0), "a") == {"t"}
    assert learned_patients(make(real=1.0, splits=BOTH), "a") == {"t", "s"}
    assert learned_patients(make(set="two"), "a") == {"t", "of two"}
