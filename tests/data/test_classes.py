import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.classes import class_map
from stedm_jax.data.schema import ClassSpec

SPECS = [
    ClassSpec(name, (i, i, i)) for i, name in enumerate(("stroma", "tumour", "necrosis", "pen"))
]


def test_groups_merge_and_leave_the_rest_unlabelled():
    classes = class_map(
        SPECS, (("rest", ("stroma", "necrosis")), ("tumour", ("tumour",))), ("tumour",)
    )
    np.testing.assert_array_equal(classes.table[[0, 1, 2, 3, VOID]], [0, 1, 0, VOID, VOID])
    assert classes.names == ("rest", "tumour") and classes.foreground == (1,)


def test_without_groups_classes_stay_and_all_but_the_first_are_foreground():
    classes = class_map(SPECS, (), ())
    np.testing.assert_array_equal(classes.table[:5], [0, 1, 2, 3, VOID])
    assert classes.foreground == (1, 2, 3)


@pytest.mark.parametrize(
    ("groups", "foreground", "says"),
    [
        ((("a", ("stroma",)), ("b", ("stroma",))), (), "twice"),
        ((("a", ("stroma",)), ("b", ("bone",))), (), "bone"),
        ((("a", ("stroma",)), ("b", ("tumour",))), ("c",), "foreground names c"),
        ((("a", ("stroma",)),), (), "one class"),
    ],
)
def test_mistakes_are_named(groups, foreground, says):
    with pytest.raises(UserError, match=says):
        class_map(SPECS, groups, foreground)


def test_before_there_are_tiles_the_groups_are_needed():
    assert class_map(None, (("a", ("x",)), ("b", ("y",))), ()).names == ("a", "b")
    with pytest.raises(UserError, match="groups is empty"):
        class_map(None, (), ())
