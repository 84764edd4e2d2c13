import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.evaluation import optical_density
from stedm_jax.evaluation.confusion import foreground_scores
from stedm_jax.tasks.fidelity import layout_iou, layout_style_grid, style_correlation

RNG = np.random.default_rng(0)


def test_style_correlation_is_that_of_the_report():
    styles = RNG.integers(0, 256, (12, 3, 8, 8, 3), dtype=np.uint8)
    images = np.clip(styles.mean(1) + RNG.normal(0, 9, (12, 8, 8, 3)), 0, 255).astype(np.uint8)
    bags = np.stack(
        [np.mean([optical_density.mean_od(tile) for tile in bag], axis=0) for bag in styles]
    )
    expected = optical_density.style_correlation(
        np.stack([optical_density.mean_od(each) for each in images]), bags
    )
    assert float(style_correlation(jnp.asarray(images), jnp.asarray(styles))) == pytest.approx(
        expected.mean(), abs=1e-4
    )
    constant = jnp.full((12, 8, 8, 3), 7, jnp.uint8)
    assert np.isnan(style_correlation(constant, jnp.asarray(styles)))


@pytest.mark.parametrize("foreground", [(1,), (1, 2), (2, 3)])
def test_layout_iou_is_that_of_the_report(foreground):
    counts = RNG.integers(0, 50, (4, 4)).astype(np.int32)
    counts[3], counts[:, 3] = 0, 0  # a class that is nowhere
    expected = foreground_scores(counts, foreground)["iou"]
    assert float(layout_iou(jnp.asarray(counts), foreground)) == pytest.approx(expected, abs=1e-6)
    assert np.isnan(layout_iou(jnp.asarray(counts), (3,)))


def test_the_grid_has_layouts_left_and_styles_on_top():
    rows, columns, side = 2, 3, 4
    value = lambda r, c: np.full((side, side, 3), 10 * r + c, np.uint8)  # noqa: E731
    samples = np.stack(
        [np.stack([value(r + 1, c + 1) for c in range(columns)]) for r in range(rows)]
    )
    layouts, styles = samples // 10 * 10, samples % 10
    picture = layout_style_grid(*(jnp.asarray(each) for each in (layouts, styles, samples)))
    cells = np.asarray(picture)[::side, ::side, 0]
    np.testing.assert_array_equal(cells, [[255, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]])
