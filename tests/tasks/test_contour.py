"""Contours in the loss and in what is predicted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.evaluation.objects import classes_in_objects, to_objects
from stedm_jax.settings.segmentation import Dcan, Segmentation, SegmenterModel
from stedm_jax.tasks.contour import ContourTask, contours_of
from stedm_jax.tasks.segmentation import Shown
from tests.models.fakes import random_params

SHOWN = Shown(((0, 0, 0), (255, 0, 0), (0, 255, 0)), (1, 2))


SIZES = Dcan(widths=(4, 4, 6, 6, 8), hidden=8, radius=2)
SETTINGS = Segmentation(model=SegmenterModel(kind="dcan", dcan=SIZES))


@pytest.fixture(scope="module")
def task() -> ContourTask:
    return ContourTask(SETTINGS, SHOWN, 3, jnp.float32)


def two_discs(size: int = 32) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    mask = ((x - 9) ** 2 + (y - 16) ** 2 <= 36).astype(np.uint8)
    mask[(x - 23) ** 2 + (y - 16) ** 2 <= 36] = 2
    return mask


def test_there_is_a_class_between_objects():
    with pytest.raises(UserError, match="names every class"):
        ContourTask(SETTINGS, replace(SHOWN, foreground=(0, 1, 2)), 1, jnp.float32)


def test_contours_follow_objects_and_not_what_is_unlabeled():
    mask = two_discs()
    mask[:, 20:] = VOID
    contours, known = contours_of(
        jnp.asarray(mask)[None], jnp.asarray(mask != VOID)[None], (1, 2), 2
    )
    assert contours[0, 16, 3] == 1 and contours[0, 16, 9] == 0 and contours[0, 2, 2] == 0
    np.testing.assert_array_equal(np.asarray(known)[0].all(0), np.arange(32) < 17)
    joined = np.ones((1, 8, 8), np.uint8)
    joined[:, :, 4:] = 2  # two classes of objects touch: a contour; object and background as well
    assert contours_of(jnp.asarray(joined), jnp.ones((1, 8, 8), bool), (1, 2), 1)[0][
        0, 0
    ].tolist() == [
        0,
        0,
        1,
        1,
        1,
        1,
        0,
        0,
    ]


def test_the_loss_is_equation_one(task):
    params = random_params(task.network)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    mask = np.stack([two_discs(), np.full((32, 32), VOID, np.uint8)])
    batch = {"image": jnp.asarray(image), "mask": jnp.asarray(mask)}
    loss = jax.jit(lambda p, step: task.loss(p, {}, batch, jax.random.key(0), step))
    early, parts = loss(params, jnp.int32(0))
    late, _ = loss(params, jnp.int32(10_000))
    final, _ = loss(params, jnp.int32(10**6))
    levels = (early - late) / 0.9
    np.testing.assert_allclose(early, parts["ce"] + parts["contour_ce"] + levels, rtol=1e-4)
    np.testing.assert_allclose(final, parts["ce"] + parts["contour_ce"] + 0.001 * levels, rtol=1e-4)
    assert levels > 0.1
    out = task.network.apply(
        params, batch["image"].astype(jnp.float32) / 127.5 - 1.0, train=True, key=jax.random.key(0)
    )
    logp = np.asarray(jax.nn.log_softmax(out.objects))[0].reshape(-1, 3)
    np.testing.assert_allclose(
        parts["ce"], -logp[np.arange(1024), two_discs().ravel()].mean(), rtol=1e-4
    )


def maps_of(mask: np.ndarray, radius: int) -> np.ndarray:
    """The maps of a network that knows everything."""
    contours, _ = contours_of(
        jnp.asarray(mask)[None], jnp.ones((1, *mask.shape), bool), (1, 2), radius
    )
    return np.concatenate([np.eye(3)[mask], np.asarray(contours)[0, ..., None]], -1).astype(
        np.float32
    )


def test_objects_of_perfect_maps_are_those_of_the_truth(task, monkeypatch):
    mask = two_discs()
    mask[10:23, 9:23] = np.maximum(mask[10:23, 9:23], 1)  # touching now
    maps = maps_of(mask, 2)
    classes, core = task.decide(maps)
    objects = to_objects(core, grow=task.grow)
    assert objects.max() == 2 and to_objects(mask > 0).max() == 1
    final = classes_in_objects(classes, objects, task.foreground, 0)
    assert (final != mask).mean() < 0.05  # corners come back round
    monkeypatch.setattr(task, "maps", lambda params, frozen, image: jnp.asarray(maps)[None])
    predicted = np.asarray(task.predict({}, {}, {"image": jnp.zeros((1, 32, 32, 3), jnp.uint8)}))[0]
    np.testing.assert_array_equal(predicted > 0, np.asarray(objects) > 0)
    assert (predicted != mask).mean() < 0.05


def test_what_is_no_object_is_background_and_every_object_is_foreground(task):
    classes = np.array([[0, 1, 1, 2], [0, 0, 1, 2]], np.uint8)
    objects = np.array([[1, 1, 1, 0], [1, 2, 0, 0]], np.int32)
    np.testing.assert_array_equal(
        classes_in_objects(classes, objects, task.foreground, 0), [[1, 1, 1, 0], [1, 1, 0, 0]]
    )


def test_maps_and_scores_of_a_batch(task):
    params = random_params(task.network)
    batch = {
        "image": jnp.zeros((2, 32, 32, 3), jnp.uint8),
        "mask": jnp.zeros((2, 32, 32), jnp.uint8),
        "patient": jnp.array([0, 2], jnp.int32),
        "weight": jnp.ones(2, jnp.float32),
    }
    counts, maps = jax.jit(
        lambda p: (
            task.eval_step(p, {}, batch, jax.random.key(0)),
            task.maps(p, {}, batch["image"]),
        )
    )(params)
    assert counts["confusion"].sum(axis=(1, 2)).tolist() == [1024, 0, 1024]
    assert maps.shape == (2, 32, 32, 4)
    np.testing.assert_allclose(maps[..., :3].sum(-1), 1.0, rtol=1e-5)
    assert 0 <= float(maps[..., 3].min()) <= float(maps[..., 3].max()) <= 1
