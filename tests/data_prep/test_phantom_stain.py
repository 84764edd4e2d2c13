import numpy as np

from data_prep.phantom_stain import APART, NOMINAL, REFERENCE, distance, narrow_stain, wide_stains


def test_vectors_are_unit_and_positive():
    for stain in (NOMINAL, *wide_stains(np.random.default_rng(1), 12)):
        for vector in stain.vectors():
            assert np.all(vector > 0)
            np.testing.assert_allclose(np.linalg.norm(vector), 1)


def test_wide_stains_lie_outside_the_narrow_ones():
    """No wide stain is as near to any narrow one as the narrow ones are to each other."""
    rng = np.random.default_rng(2)
    narrow = [narrow_stain(rng) for _ in range(60)]
    densities = {name: np.array([stain.density(name) for stain in narrow]) for name in REFERENCE}
    for stain in wide_stains(rng, 12):
        assert distance(stain, NOMINAL) > APART
        for name, inside in densities.items():
            low, high = inside.min(0), inside.max(0)
            assert np.any((stain.density(name) < low) | (stain.density(name) > high))


def test_style_and_test_span_the_same_hues():
    hues = [stain.hue for stain in wide_stains(np.random.default_rng(3), 12)]
    assert hues == sorted(hues)
    assert min(hues) < -40 and max(hues) > 40


def test_some_stroma_looks_like_the_training_tumor():
    """The stroma of some wide patient is nearer to the training tumor than to the training
    stroma."""
    rng = np.random.default_rng((0, 1))
    tumor, stroma = NOMINAL.density("tumor"), NOMINAL.density("stroma")
    found = [
        np.linalg.norm(stain.density("stroma") - tumor)
        < np.linalg.norm(stain.density("stroma") - stroma)
        for stain in wide_stains(rng, 12)
    ]
    assert any(found)
