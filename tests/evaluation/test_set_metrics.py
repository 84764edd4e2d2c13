"""Metrics of whole sets against closed forms and brute force."""

import itertools

import numpy as np
import pytest
from scipy import linalg

from stedm_jax.evaluation.quality_table import compared_rows
from stedm_jax.evaluation.synthesis_quality.compared import Features, Tiles, nearest
from stedm_jax.evaluation.synthesis_quality.frechet_distance import frechet
from stedm_jax.evaluation.synthesis_quality.kept_energy import high_energy
from stedm_jax.evaluation.synthesis_quality.kernel_distance import kid
from stedm_jax.evaluation.synthesis_quality.layout_diversity import LayoutDiversity, turned
from stedm_jax.evaluation.synthesis_quality.measure import load_quality, measure, save_quality
from stedm_jax.evaluation.synthesis_quality.memorization import Memorization
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment, RealTile
from stedm_jax.evaluation.synthesis_quality.neighborhoods import neighborhoods
from stedm_jax.evaluation.synthesis_quality.style_retrieval import StyleRetrieval

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def read_tile(key):
    return IMAGES[key]


def normal(n, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def tiles(values, patients=None, slides=None):
    n = len(values)
    names = patients or ["p"] * n
    return Tiles(values, names, slides or names, lambda i: IMAGES[i % len(IMAGES)])


def compared(made, held_out, seen, **more):
    return Judgment(features=Features("test", made, held_out, seen, **more))


@pytest.mark.parametrize("n", [40, 3])
def test_frechet_distance_is_that_of_the_gaussians(n):
    x, y = normal(n) @ normal(4, seed=1) + 1, normal(60, seed=2)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(a.astype(complex) @ b).real
    wanted = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * root)
    assert frechet(x, y) == pytest.approx(wanted, rel=1e-3)


def test_frechet_distance_in_closed_form():
    """Of a set to itself 0, to itself moved the square of the way, to itself stretched by s
    (s - 1)^2 of its variance."""
    x = normal(50).astype(np.float64)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + 2.0) == pytest.approx(16)
    x -= x.mean(0)
    assert frechet(x, 3 * x) == pytest.approx(4 * x.var(0, ddof=1).sum())


def kernel(x, y):
    return (np.dot(x.astype(float), y) / len(x) + 1) ** 3


def test_kernel_distance_is_the_sum_over_all_pairs():
    x, y = normal(6), normal(7, seed=1)
    patients = list("aabbbcc")

    def direct(y):
        own = [np.mean([kernel(*p) for p in itertools.permutations(z, 2)]) for z in (x, y)]
        return sum(own) - 2 * np.mean([kernel(a, b) for a in x for b in y])

    found, (low, high) = kid(x, y, patients)
    assert found == pytest.approx(direct(y))
    without = np.array([direct(y[[name != p for name in patients]]) for p in "abc"])
    half = 4.302652729911275 * np.sqrt(2 / 3 * np.square(without - without.mean()).sum())
    np.testing.assert_allclose([low, high], [found - half, found + half])
    assert np.isnan(kid(x, y, ["a"] * 7)[1]).all()


def test_kernel_distance_is_unbiased():
    values = [kid(normal(5, 2, s), normal(6, 2, s + 999), ["p"] * 6)[0] for s in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20


def test_kernel_distance_of_more_than_one_chunk():
    x, y = normal(1500, 3), normal(1100, 3, 1)
    table = [(a @ b.T / 3.0 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    own = [(t.sum() - np.trace(t)) / (len(t) * (len(t) - 1)) for t in table[:2]]
    assert kid(x, y, ["p"] * 1100)[0] == pytest.approx(sum(own) - 2 * table[2].mean(), rel=1e-3)


def test_neighborhoods_by_brute_force():
    real, made, k = normal(30, 2), normal(20, 2, 1) + 0.5, 3

    def apart(a, b):
        return np.linalg.norm(a - b)

    def radius(x, points):
        return sorted(apart(x, y) for y in points)[k]

    of_real, of_made = [radius(x, real) for x in real], [radius(x, made) for x in made]
    balls = np.array([[apart(x, y) < r for y, r in zip(real, of_real, strict=True)] for x in made])
    reached = [any(apart(y, x) < r for x, r in zip(made, of_made, strict=True)) for y in real]
    wanted = balls.any(1).mean(), np.mean(reached), balls.sum() / (k * 20), balls.any(0).mean()
    assert neighborhoods(real, made, k) == pytest.approx(wanted)
    assert neighborhoods(real, made + 99, k) == (0, 0, 0, 0)
    assert np.isnan(neighborhoods(real, made[:3], k)).all()


def test_nearest_by_brute_force():
    x, y = normal(7), normal(9, seed=1)
    table = np.linalg.norm(x[:, None] - y, axis=-1)
    apart = np.zeros((7, 9), bool)
    apart[:, 4] = True
    for mask in (None, apart):
        known = table if mask is None else np.where(mask, np.inf, table)
        where, far = nearest(x, y, mask)
        np.testing.assert_array_equal(where, known.argmin(1))
        np.testing.assert_allclose(far, known.min(1), rtol=1e-4)


def test_retrieval_counts_nearest_means_and_leaves_the_slide_out():
    seen = np.array([[0.0], [1], [10], [3], [20], [21]], np.float32)
    real = tiles(seen, list("aabbcc"), ["a1", "a2", "b1", "b2", "c1", "c1"])
    made = tiles(np.array([[0.4], [12], [7]], np.float32), ["a", "a", "b"])
    found = StyleRetrieval().result(compared(made, tiles(normal(3, 1)), real)).numbers
    assert found["style_retrieval"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["style_retrieval_chance"] == pytest.approx(1 / 3)
    # Both of a lie nearest to the other; 10 of b to 3, and 3 to the mean of a, not to 10.
    assert found["style_retrieval_real"] == pytest.approx((1 + 1 / 2) / 2)


def test_memorized_images_are_nearer_to_training_than_real_ones():
    seen, held = normal(40), normal(40, seed=1)
    slides = [str(i) for i in range(40)]
    real = tiles(seen, None, slides)
    copied, fresh = tiles(seen[:20] + 0.01), tiles(normal(20, seed=2))
    found = [Memorization().result(compared(made, tiles(held), real)) for made in (copied, fresh)]
    assert found[0].numbers["nearest_is_seen"] == 1
    assert 0.2 < found[1].numbers["nearest_is_seen"] < 0.8
    assert 0.2 < found[0].numbers["nearest_is_seen_real"] < 0.8
    assert found[0].numbers["nearest_ratio"] < 0.1 < found[1].numbers["nearest_ratio_least"]
    sheet = found[0].arrays["closest_pairs"].reshape(16, 256, 3, 256, 3).swapaxes(1, 2)
    np.testing.assert_array_equal(sheet[:, 0], sheet[:, 1])  # an image and the tile it copies


def layouts(count):
    mask = np.zeros((8, 8), np.uint8)
    mask[:3, :2] = 1
    return [turned(mask, number) for number in range(count)] + [np.zeros((8, 8), np.uint8)] * 2


def test_diversity_compares_images_of_one_layout_turned_alike():
    metric, first = LayoutDiversity(), IMAGES[0]
    images = [turned(first, number) for number in range(8)] + list(IMAGES[:2])
    for image, mask in zip(images, layouts(8), strict=True):
        metric.update(Example(image, mask, [], read_tile))
    values = normal(10)
    made = Tiles(values, ["p"] * 10, ["p"] * 10, images.__getitem__)

    def distance(x, y):
        return np.abs(x.astype(float) - y).mean((1, 2, 3))

    judgment = compared(made, tiles(values), tiles(values), distance=distance)
    found = metric.result(judgment).numbers
    assert found["layout_pairs"] == 4  # masks of one class fix nothing
    assert found["layout_lpips"] == 0 < found["layout_lpips_other"]
    assert found["layout_diversity"] > 0


def test_high_energy_is_that_of_fine_waves():
    x = np.arange(64)
    for frequency, wanted in ((0.125, 0.0), (0.375, 0.02)):
        wave = 1 + 0.2 * np.sin(2 * np.pi * frequency * x)[None, :, None] * np.ones((64, 1, 3))
        assert high_energy(wave) == pytest.approx(wanted, abs=2e-4)
    noise = RNG.normal(size=(256, 256, 3))
    share = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256)] * 2)) > 0.25
    assert high_energy(noise) == pytest.approx(share.mean(), rel=0.05)


def test_one_pass_measures_all_and_keeps_the_closest_pairs(tmp_path):
    patients = list("ab") * 6
    made, seen = tiles(normal(12), patients), tiles(normal(12, seed=1), patients, patients)
    judgment = compared(made, tiles(normal(12, seed=2), list("xyz") * 4), seen)
    examples = [
        Example(IMAGES[i], layouts(8)[i % 8], [i], read_tile, patients[i]) for i in range(12)
    ]
    real = [RealTile(i, patients[i], IMAGES[i]) for i in range(12)]
    found = measure(examples, judgment, real)
    assert found.numbers["kept_energy"] == pytest.approx(1)
    save_quality(tmp_path, found)
    kept = load_quality(tmp_path).arrays["closest_pairs"]
    np.testing.assert_array_equal(kept, found.arrays["closest_pairs"])
    rows = compared_rows({"s": found.numbers, "other": {"n_images": 3}})
    assert rows[0] == ["against held-out patients", "s"]
    words = [row[0] for row in rows]
    assert words.index("  its 95 % interval") == words.index("kernel distance (KID)") + 1
    assert words.index("  by chance") == words.index("nearest patient is the style") + 1
    assert compared_rows({"other": {"n_images": 3}}) == []
