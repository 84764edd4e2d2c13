import os

import pytest

from data_prep.pool import map_in_order


def square(number):
    return number * number


def fail(number):
    if number == 3:
        raise ValueError("three")
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order(workers):
    assert list(map_in_order(square, range(7), workers)) == [(i, i * i) for i in range(7)]


def test_errors_come_through():
    with pytest.raises(ValueError, match="three"):
        list(map_in_order(fail, range(9), 2))
