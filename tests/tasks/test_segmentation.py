import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.labels import VOID
from stedm_jax.evaluation.confusion import confusion_matrix
from stedm_jax.settings.segmentation import Segmentation
from stedm_jax.tasks.segmentation import (
    SegmentationTask,
    cross_entropy,
    dice_loss,
    patient_confusion,
    valid_pixels,
)


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)
    mask = rng.integers(0, 3, (4, 8, 8)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.3] = VOID
    return logits, mask


def losses(logits, mask, border=0):
    valid = valid_pixels(jnp.asarray(mask), border)
    return cross_entropy(logits, jnp.asarray(mask), valid), dice_loss(
        logits, jnp.asarray(mask), valid, (1, 2)
    )


def test_void_pixels_change_no_loss_and_get_no_gradient(made):
    logits, mask = made
    noise = jnp.where(jnp.asarray(mask == VOID)[..., None], 7.0, 0.0)
    noise = noise * jnp.array([1.0, -1.0, 0.5])[None, None, None, :]
    for one, other in zip(losses(logits, mask), losses(logits + noise, mask), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    gradient = jax.grad(lambda x: sum(losses(x, mask)))(logits)
    assert np.abs(gradient[mask == VOID]).max() == 0 and np.abs(gradient[mask != VOID]).max() > 0


def test_the_border_counts_for_nothing(made):
    logits, mask = made
    inner = np.full_like(mask, VOID)
    inner[:, 2:-2, 2:-2] = mask[:, 2:-2, 2:-2]
    for one, other in zip(losses(logits, mask, border=2), losses(logits, inner), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(("scored", "pixels"), [(-1, 36), (0, 64), (3, 4)])
def test_scoring_has_a_border_of_its_own_or_that_of_training(scored, pixels):
    config = Segmentation(border=1, border_scored=scored)
    task = object.__new__(SegmentationTask)
    task.config, task.patients, task.colors = config, 1, ((0, 0, 0), (9, 9, 9))
    task.predict = lambda params, frozen, batch: batch["mask"].astype(jnp.int32)
    batch = {"mask": jnp.ones((1, 8, 8), jnp.uint8), "weight": jnp.ones(1)}
    batch["patient"] = jnp.zeros(1, jnp.int32)
    counts = task.eval_step({}, {}, batch, jax.random.key(0))["confusion"]
    assert counts.tolist() == [[[0, 0], [0, pixels]]]


def test_losses_are_low_for_the_truth_and_zero_without_labels(made):
    _, mask = made
    right = 30.0 * jax.nn.one_hot(np.where(mask == VOID, 0, mask), 3, dtype=jnp.float32)
    ce, dice = losses(right, mask)
    assert ce < 1e-6 and dice < 1e-6
    ce, dice = losses(right, np.full_like(mask, VOID))
    assert ce == 0 and dice == 0


def test_cross_entropy_is_the_textbook_mean(made):
    logits, mask = made
    known = mask != VOID
    logp = np.asarray(jax.nn.log_softmax(logits))[known]
    expected = -logp[np.arange(known.sum()), mask[known]].mean()
    np.testing.assert_allclose(losses(logits, mask)[0], expected, rtol=1e-5)


def test_confusion_by_patient_equals_the_one_on_the_host(made):
    logits, mask = made
    prediction, patient = (
        jnp.argmax(logits, -1).astype(jnp.int32),
        jnp.array([1, 0, 1, 2], jnp.int32),
    )
    valid = valid_pixels(jnp.asarray(mask), 0)
    counts = patient_confusion(prediction, jnp.asarray(mask), valid, patient, 4, 3)
    for number in range(4):
        mine = np.asarray(patient) == number
        expected = confusion_matrix(mask[mine], np.asarray(prediction)[mine], 3)
        np.testing.assert_array_equal(counts[number], expected)


@pytest.mark.parametrize(("as_published", "total"), [(False, 0.136), (True, 1.036)])
def test_a_batch_without_tumor_counts_in_dice_as_published_only(as_published, total):
    """0.1 CE of 1.36, and 0.9 of a Dice loss that is nearly 1."""
    task = object.__new__(SegmentationTask)
    task.config = Segmentation(as_published_code=as_published)
    task.foreground = (1,)
    background = np.exp(-1.36)
    logits = jnp.log(jnp.array([background, 1 - background], jnp.float32))
    logits = jnp.broadcast_to(logits, (2, 32, 32, 2))
    task.logits = lambda *_, **__: (logits, {})
    batch = {"mask": jnp.zeros((2, 32, 32), jnp.uint8)}
    found, _ = task.loss({}, {}, batch, jax.random.key(0), jnp.int32(0))
    assert float(found) == pytest.approx(total, abs=5e-4)


@pytest.mark.parametrize(("as_published", "mean"), [(False, 0.5), (True, 0.25)])
def test_the_best_checkpoint_is_chosen_by_the_scores_that_count(as_published, mean):
    """A patient with tumor, one without, and one whose pixels are all unlabeled."""
    task = object.__new__(SegmentationTask)
    task.config, task.foreground = Segmentation(as_published_code=as_published), (1,)
    sums = {"confusion": np.array([[[0, 5], [0, 5]], [[9, 0], [0, 0]], [[0, 0], [0, 0]]])}
    assert task.summarize(sums)["iou"] == pytest.approx(mean)
