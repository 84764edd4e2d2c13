import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from stedm_jax.models.flops import forward_flops, product_flops
from stedm_jax.models.functional import Functional, on_each_device
from stedm_jax.models.published_sizes import PUBLISHED, build_published
from stedm_jax.models.table import ROWS, Row, measure, table


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def convolve(x, kernel, **kw):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **kw
    )


def test_products_are_counted_and_sums_are_not():
    a, b = shape(8, 16), shape(16, 4)
    assert product_flops(jnp.dot, a, b) == forward_flops(jnp.dot, a, b) == 2 * 8 * 16 * 4
    assert product_flops(lambda a, b: jax.nn.softmax(a @ b) + 1.0, a, b) == 2 * 8 * 16 * 4
    batched = lambda a, b: jnp.einsum("bnhd,bmhd->bhnm", a, b)  # noqa: E731
    assert product_flops(batched, shape(2, 5, 3, 7), shape(2, 6, 3, 7)) == 2 * 2 * 3 * 5 * 6 * 7


def test_convolutions_count_padding_but_not_other_groups_and_not_the_holes_of_a_transposed_one():
    x = shape(2, 6, 6, 4)
    assert product_flops(convolve, x, shape(3, 3, 4, 8)) == 2 * (2 * 6 * 6 * 8) * 9 * 4
    assert forward_flops(convolve, x, shape(3, 3, 4, 8)) < product_flops(
        convolve, x, shape(3, 3, 4, 8)
    )
    grouped = lambda x, k: convolve(x, k, feature_group_count=4)  # noqa: E731
    assert product_flops(grouped, x, shape(3, 3, 1, 4)) == 2 * (2 * 6 * 6 * 4) * 9
    up = lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME")  # noqa: E731
    assert product_flops(up, x, shape(4, 4, 4, 4)) == 2 * (2 * 6 * 6 * 4) * 16 * 4


def test_nested_programs_are_followed():
    x, once = shape(4, 4), 2 * 4**3
    assert product_flops(jax.jit(lambda x: jax.checkpoint(jnp.dot)(x, x)), x) == once
    assert (
        product_flops(lambda x: lax.scan(lambda c, _: (c @ c, None), x, None, length=5)[0], x)
        == 5 * once
    )
    choice = lambda x: lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)  # noqa: E731
    assert product_flops(choice, x) == 2 * once


def test_a_row_counts_what_is_asked_for():
    class Pair(nnx.Module):
        def __init__(self, make):
            self.one, self.two = make.linear(2, 3), make.linear(3, 4)
            self.running_mean = nnx.Param(jnp.zeros(4))

        def half(self, x):
            return self.one(x)

    pair = Functional(Pair)
    both = measure(pair, Row("both", "", ((5, 2),), "", method="half"))
    assert both[:2] == (25, 2 * 5 * 2 * 3 / 1e9)
    assert measure(pair, Row("one", "", ((5, 2),), "", method="half", parts=("one",)))[0] == 9


def test_the_table_is_markdown_with_a_row_for_each_network_asked_for():
    head, rule, row = table(["hipt"])
    assert head.count("|") == rule.count("|") == row.count("|")
    assert "| 21,665,664 | 12.3 |" in row
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) and {row.network for row in ROWS} <= set(PUBLISHED)


@pytest.mark.slow
def test_costs_are_those_of_the_papers():
    for row in ROWS:
        if row.gflops:
            _, products, everything = measure(build_published(row.network), row)
            assert products == pytest.approx(row.gflops, rel=0.015), row.name
            assert everything == pytest.approx(row.gflops, rel=0.06), row.name


def test_what_every_device_does_for_itself_counts_for_all():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        cut = lambda w, x: on_each_device(lambda w, x: x @ w, w, x)  # noqa: E731
        assert product_flops(cut, shape(16, 4), shape(8, 16)) == 2 * 8 * 16 * 4
