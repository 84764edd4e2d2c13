"""Object scores against a slow oracle that follows the definitions word by word, and their
properties."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from stedm_jax.evaluation.object_scores import ObjectSums, object_sums

DATA = Path(os.environ.get("STEDM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SEEDS = st.integers(0, 10_000)


def random_objects(rng: np.random.Generator, shape=(24, 30), count: int = 5) -> np.ndarray:
    """Rectangles that may cover each other, with gaps in the numbers."""
    numbers = np.zeros(shape, np.int32)
    for number in rng.permutation(3 * count)[:count] + 1:
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        numbers[y : y + rng.integers(1, 10), x : x + rng.integers(1, 10)] = number
    return numbers


def equals(truth: np.ndarray, predicted: np.ndarray) -> bool:
    """Whether two predicted objects overlap a true one equally and are equally large."""
    pairs = [
        (int((predicted[truth == g] == s).sum()), int((predicted == s).sum()), g)
        for g in np.unique(truth)
        if g
        for s in np.unique(predicted)
        if s
    ]
    overlapping = [pair for pair in pairs if pair[0]]
    return len(set(overlapping)) < len(overlapping)


def oracle(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Equations 1 to 3, object by object."""
    g_objects = [np.argwhere(truth == n) for n in np.unique(truth) if n]
    s_objects = [np.argwhere(predicted == n) for n in np.unique(predicted) if n]

    def shared(a, b):
        return len({*map(tuple, a)} & {*map(tuple, b)})

    def partner(one, others):
        """The one that overlaps it most, or None."""
        best = max(others, key=lambda other: (shared(one, other), -len(other)), default=None)
        return best if best is not None and shared(one, best) else None

    def dice(one, others):
        other = partner(one, others)
        return 0.0 if other is None else 2 * shared(one, other) / (len(one) + len(other))

    def distance(a, b):
        table = cdist(a, b)
        return max(table.min(1).max(), table.min(0).max())

    def hausdorff(one, others):
        if not others:
            return float(np.hypot(*truth.shape))
        other = partner(one, others)
        return (
            distance(one, other)
            if other is not None
            else min(distance(one, each) for each in others)
        )

    def weighted(score):
        sides = []
        for mine, others in ((g_objects, s_objects), (s_objects, g_objects)):
            if mine:
                sides.append(
                    sum(len(one) * score(one, others) for one in mine) / sum(map(len, mine))
                )
        return float(np.mean(sides))

    found = set()
    for s in s_objects:
        g = partner(s, g_objects)
        if g is not None and shared(s, g) >= len(g) / 2:
            found.add(g.tobytes())
    tp, fp, fn = len(found), len(s_objects) - len(found), len(g_objects) - len(found)
    return {
        "object_f1": 2 * tp / (2 * tp + fp + fn),
        "object_dice": weighted(dice),
        "object_hausdorff": weighted(hausdorff),
    }


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(0, 6), st.integers(1, 6))
def test_as_the_definitions_say(seed, n_truth, n_predicted):
    rng = np.random.default_rng(seed)
    truth, predicted = random_objects(rng, count=n_truth), random_objects(rng, count=n_predicted)
    got = object_sums(truth, predicted).scores()
    assert got == pytest.approx(oracle(truth, predicted), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_identity_numbers_and_mirrors(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = random_objects(rng), random_objects(rng)
    perfect = {"object_f1": 1.0, "object_dice": 1.0, "object_hausdorff": 0.0}
    assert object_sums(truth, truth).scores() == perfect
    renumbered = np.concatenate([[0], rng.permutation(200)[: predicted.max()] + 1])[predicted]
    assume(not equals(truth, predicted))  # among equals the number decides
    assert object_sums(truth, renumbered).scores() == pytest.approx(
        object_sums(truth, predicted).scores()
    )
    assert object_sums(truth, np.where(truth > 0, 99 - truth, 0)).scores() == perfect
    there = object_sums(truth, predicted)
    for turn in (np.flipud, np.transpose, lambda a: np.pad(a, 7)):
        assert object_sums(turn(truth), turn(predicted)).scores() == pytest.approx(there.scores())
    back = object_sums(predicted, truth).scores()
    for symmetric in (
        "object_dice",
        "object_hausdorff",
    ):  # F1 asks for half of the true object only
        assert back[symmetric] == pytest.approx(there.scores()[symmetric])


def test_nothing_on_one_side_or_on_both():
    empty, one = np.zeros((30, 40), np.int32), np.zeros((30, 40), np.int32)
    one[3:7, 5:9] = 4
    for sums in (object_sums(one, empty), object_sums(empty, one)):
        assert sums.scores() == {"object_f1": 0.0, "object_dice": 0.0, "object_hausdorff": 50.0}
    assert (object_sums(one, empty).false_negatives, object_sums(empty, one).false_positives) == (
        1,
        1,
    )
    assert all(np.isnan(value) for value in object_sums(empty, empty).scores().values())


def test_one_true_positive_for_each_true_object():
    truth, predicted = np.zeros((4, 20), np.uint8), np.zeros((4, 20), np.uint8)
    truth[:, :8] = 1
    predicted[:, :4], predicted[:, 4:8] = 1, 2  # two halves
    sums = object_sums(truth, predicted)
    assert (sums.true_positives, sums.false_positives, sums.false_negatives) == (1, 1, 0)
    truth[:, 10:14], predicted[:] = 2, 1  # one over both: it belongs to the larger
    sums = object_sums(truth, predicted)
    assert (sums.true_positives, sums.false_positives, sums.false_negatives) == (1, 0, 1)
    predicted[:, 3:] = 0  # covers 3 of 8
    assert object_sums(truth, predicted).true_positives == 0


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_set_is_the_sum_of_its_images(seed):
    """Side by side, far enough apart that no object is nearest to one of another image, images are
    one image."""
    rng = np.random.default_rng(seed)
    pairs = []
    while len(pairs) < 2:
        truth, predicted = random_objects(rng), random_objects(rng)
        if truth.any() and predicted.any():
            pairs.append((truth, predicted))
    gap = np.zeros((24, 200), np.int32)
    joined = [np.hstack([a, gap, np.where(b > 0, b + 100, 0)]) for a, b in zip(*pairs, strict=True)]
    first, second = (object_sums(*pair) for pair in pairs)
    assert (first + second).scores() == pytest.approx(object_sums(*joined).scores())
    assert first + ObjectSums() == first


@pytest.mark.data
def test_fast_on_gland_images():
    import cv2

    files = sorted((DATA / "glas/instances").glob("testA_*.png"))[:10]
    seconds = 0.0
    for path in files:
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        moved = np.roll(truth, (9, -14), (0, 1))
        start = time.perf_counter()
        sums = object_sums(truth, moved)
        seconds += time.perf_counter() - start
        assert 0.5 < sums.scores()["object_dice"] < 1 and sums.scores()["object_hausdorff"] > 9
    print(f"{seconds / len(files):.3f} s an image")
    assert seconds / len(files) < 2
