import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.splits import check_disjoint


def test_disjoint_patients_pass():
    check_disjoint({"train": ["a", "a", "b"], "test": ["c"]}, "a table")


def test_every_leak_is_named_with_its_splits():
    with pytest.raises(UserError, match=r"a table: 'a' in test and train; 'b' in style and test"):
        check_disjoint({"train": ["a"], "test": ["a", "b"], "style": ["b"]}, "a table")
