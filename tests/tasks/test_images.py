import jax.numpy as jnp
import numpy as np

from stedm_jax.tasks.images import colorize, image_rows, one_hot_layout, to_bytes, to_network


def test_bytes_round_trip_through_the_network_range():
    image = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    values = to_network(image)
    assert values.min() == -1 and values.max() == 1
    np.testing.assert_array_equal(to_bytes(values), image)


def test_out_of_range_is_clipped():
    np.testing.assert_array_equal(to_bytes(jnp.array([[[[-3.0, 3.0]]]])), [[[[0, 255]]]])


def test_bytes_are_rounded_or_truncated():
    values = jnp.array([[[[-1.0, 0.9, 1.7]]]]) / 127.5 - 1.0
    np.testing.assert_array_equal(to_bytes(values), [[[[0, 1, 2]]]])
    np.testing.assert_array_equal(to_bytes(values, truncated=True), [[[[0, 0, 1]]]])


def test_layouts_are_area_averages_and_unlabelled_is_zero():
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[:, :, 4:] = 1
    mask[:, 4:, 4:] = 255
    layout = np.asarray(one_hot_layout(jnp.asarray(mask), 2, (2, 2)))
    np.testing.assert_array_equal(layout[0], [[[1, 0], [0, 1]], [[1, 0], [0, 0]]])
    mask[0, 0, 0] = 1
    layout = np.asarray(one_hot_layout(jnp.asarray(mask), 2, (2, 2)))
    np.testing.assert_allclose(layout[0, 0, 0], [15 / 16, 1 / 16])


def test_colours_and_rows():
    mask = jnp.array([[[0, 255]]], jnp.uint8)
    np.testing.assert_array_equal(colorize(mask, [(1, 2, 3)]), [[[[1, 2, 3], [128, 128, 128]]]])
    assert image_rows([jnp.zeros((3, 4, 5, 3), jnp.uint8)] * 2).shape == (8, 15, 3)
