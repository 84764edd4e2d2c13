"""Tables and numbers as commands print them."""

import pytest

from stedm_jax.common.text import duration, flops, size_of, table


def test_columns_are_aligned():
    rows = [("name", "n", "x"), ("a", 1000, ""), ("longer",)]
    assert table(rows) == "name       n  x\na       1000\nlonger"
    assert table(rows, words=3) == "name    n     x\na       1000\nlonger"
    ruled = "name       n  x\n---------------\na       1000\nlonger"
    assert table(rows, ruled=True) == ruled
    assert table([]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (flops(2.5e12), "2.5 TFLOP"),
        (flops(1234), "0.00123 MFLOP"),
        (flops(0), "0 MFLOP"),
        (size_of(999), "999 B"),
        (size_of(1.5e9), "1.5 GB"),
        (size_of(999_900_000), "1,000 MB"),
        (size_of(2e15), "2,000 TB"),
        (duration(18), "0:18"),
        (duration(725.4), "12:05"),
        (duration(3599.6), "1:00:00"),
        (duration(11045), "3:04:05"),
    ],
)
def test_numbers_have_units(text, expected):
    assert text == expected
