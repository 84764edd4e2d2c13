"""Pixels that the judge does not believe, on logits made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.data.pipeline import Source, TileReader, tile_dataset, training_batches
from stedm_jax.data.rejected import Rejected, believed
from stedm_jax.experiment.arm_tiles import arm_dataset
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.doubt import class_means, doubt, pixel_losses, rejected_pixels
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.training.sharding import make_mesh
from tests.conftest import make_tile, written
from tests.experiment.settings import tiny

MASK = np.array([[0, 0, 1], [1, 255, 1]], np.uint8)


def test_losses_are_minus_the_log_of_the_probability_of_the_label():
    probability = np.array([[[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], [[0.6, 0.4]] * 3], np.float32)
    found = pixel_losses(jnp.log(probability)[None], jnp.asarray(MASK)[None])[0]
    wanted = -np.log([[0.9, 0.5, 0.8], [0.4, 1.0, 0.4]])
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-5)


def test_means_are_by_class_and_limits_are_a_factor_of_them():
    losses = np.array([[0.1, 0.3, 0.6], [0.4, 9.0, 0.2]])
    means = class_means(iter([(losses, MASK), (3 * losses, MASK)]), 3)
    np.testing.assert_allclose(means, [0.4, 0.8, np.inf])
    mask = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
    losses = np.array([[0.49, 0.51, 0.99], [1.01, 50.0, 50.0]])
    wanted = [[False, True, False], [True, False, False]]
    np.testing.assert_array_equal(rejected_pixels(losses, mask, means, 1.25), wanted)


def test_a_reader_gives_rejected_pixels_as_void_and_leaves_the_others(tile_set):
    rows = tile_set.index("train")
    out = np.random.default_rng(0).random((len(rows), 32, 32)) < 0.3
    reader = TileReader(tile_set, np.arange(256, dtype=np.uint8), cache_mb=10)
    filtered = believed(reader, Rejected(out))
    for row in rows:
        mask = reader.read(row)[1]
        wanted = np.where(out[row.record], 255, mask)
        np.testing.assert_array_equal(filtered.read(row)[1], wanted)
        np.testing.assert_array_equal(filtered.read_mask(row), wanted)
        np.testing.assert_array_equal(reader.read(row)[1], mask)
    batches = training_batches(
        tile_dataset([Source(filtered, rows, 1.0)], seed=0), batch=16, start=0
    )
    assert (next(batches)["mask"] == 255).sum() == out.sum()


class Judge:
    """Believes that a pixel is tumour with the probability that its first channel says."""

    def logits(self, params, frozen, batch):
        tumour = jnp.clip(batch["image"][..., 0].astype(jnp.float32) / 255.0, 1e-3, 0.999)
        return jnp.log(jnp.stack([1.0 - tumour, tumour], -1)), None


def tile(split, patient, number, value, label, **more):
    """A tile of one value and one label."""
    image, mask = np.full((32, 32, 3), value, np.uint8), np.full((32, 32), label, np.uint8)
    return make_tile(split, patient, number, image=image, mask=mask, **more)


@pytest.fixture
def context(tmp_path):
    """Validation tiles that the judge reads with a loss of 0.5 in both classes; synthetic tiles of
    two style patients, one of whom it misreads where there is tumour."""
    half = round(255 * np.exp(-0.5))
    real = [tile(split, split, 0, half, 1) for split in ("train", "val", "test")]
    real += [tile(split, split, 1, 255 - half, 0) for split in ("train", "val", "test")]
    real += [tile("style", name, 0, 100, 255) for name in ("s", "t")]
    written(tmp_path / "tiles", real)
    made = [
        tile("synthetic", "train", n, value, label, provenance={"style_patient": style})
        for n, (value, label, style) in enumerate(
            [(20, 0, "s"), (230, 1, "s"), (20, 0, "t"), (60, 1, "t"), (230, 1, "t")]
        )
    ]
    (tmp_path / "run/synthesis/synthetic").mkdir(parents=True)
    written(tmp_path / "run/synthesis/synthetic/tiles", made)
    arms = {"a": {"real": 0.0, "stain_jitter": 0.0, "reject": 1.25}}
    settings = tiny(tmp_path / "tiles", segmentation__arms=arms, data__shares=())
    return Context(settings, Workdir(tmp_path / "run"), make_mesh())


def test_what_the_judge_misreads_is_rejected_and_reported_by_style_patient_and_class(
    context, monkeypatch
):
    monkeypatch.setattr(Learned, "judge", (Judge(), {}))
    learned = Learned(context)
    found = doubt(context, learned, "synthetic", 1.25)
    np.testing.assert_allclose(context.memo["class means"], 0.5, atol=5e-3)
    assert found.shares == {
        "s": {"background": 0.0, "tumour": 0.0},
        "t": {"background": 0.0, "tumour": 0.5},
    }
    assert [found.rejected.of(n).mean() for n in range(5)] == [0, 0, 0, 1, 0]
    assert doubt(context, learned, "synthetic", 1.25) is found
    lenient = doubt(context, learned, "synthetic", 4.0)
    assert lenient.shares["t"]["tumour"] == 0.0
    dataset, _ = arm_dataset(context, "a", 0, rejected={"synthetic": found.rejected})
    batch = next(training_batches(dataset, batch=5, start=0))
    misread = batch["image"][:, 0, 0, 0] == 60
    assert ((batch["mask"] == 255).all(axis=(1, 2)) == misread).all() and misread.sum() == 1
