import pytest

from data_prep.classes import plan_classes
from stedm_jax.data.schema import VOID
from stedm_jax.errors import UserError

FOUND = {"Tumor": (1, 2, 3), "tumor": None, "stroma": None}


def test_all_found_names_sorted():
    plan = plan_classes(FOUND, None)
    assert [spec.name for spec in plan.classes] == ["Tumor", "stroma", "tumor"]
    assert plan.classes[0].color == (1, 2, 3) and plan.outside == VOID


def test_several_spellings_of_a_class():
    plan = plan_classes(FOUND, "stroma,tumour=Tumor|tumor")
    assert plan.ids == {"stroma": 0, "Tumor": 1, "tumor": 1}
    assert plan.classes[1].color == (1, 2, 3)


def test_void_ignore_and_background():
    plan = plan_classes(FOUND | {"pen": None}, "tumour=Tumor|tumor", ("pen",), ("stroma",), "background")
    assert [spec.name for spec in plan.classes] == ["background", "tumour"]
    assert plan.outside == 0 and plan.ids["pen"] == VOID and "stroma" not in plan.ids


def test_a_class_may_be_absent():
    assert len(plan_classes(FOUND, "stroma,tumour=Tumor|tumor,fat").classes) == 3


@pytest.mark.parametrize(("wanted", "says"), [
    ("stroma", "does not name: Tumor, tumor"),
    ("stroma,stroma", "named twice"),
    ("stroma,,Tumor", "empty"),
])  # fmt: skip
def test_errors(wanted, says):
    with pytest.raises(UserError, match=says):
        plan_classes(FOUND, wanted)
