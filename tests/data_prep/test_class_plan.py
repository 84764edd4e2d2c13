import pytest

from data_prep.class_plan import PALETTE, plan_classes, read_classes, unseen_classes
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID

FOUND = {"Tumor": (1, 2, 3), "tumor": None, "stroma": None}


ONCE = {"Tumor": (1, 2, 3), "stroma": None}


def test_all_found_names_sorted():
    plan = plan_classes(ONCE, None)
    assert [spec.name for spec in plan.classes] == ["Tumor", "stroma"]
    assert plan.classes[0].color == (1, 2, 3) and plan.outside == VOID


def test_several_spellings_of_a_class():
    plan = plan_classes(FOUND, "stroma,tumour=Tumor|tumor")
    assert plan.ids == {"stroma": 0, "Tumor": 1, "tumor": 1}
    assert plan.classes[1].color == (1, 2, 3)


def test_void_ignore_and_background():
    plan = plan_classes(
        FOUND | {"pen": None}, "tumour=Tumor|tumor", ("pen",), ("stroma",), "background"
    )
    assert [spec.name for spec in plan.classes] == ["background", "tumour"]
    assert plan.outside == 0 and plan.ids["pen"] == VOID and "stroma" not in plan.ids


def test_classes_that_differ_in_case_only_are_a_question(tmp_path):
    with pytest.raises(UserError, match="'Tumor' and 'tumor', which differ in case only.*Tumor|t"):
        plan_classes(FOUND, None)
    with pytest.raises(UserError, match="'Background' and 'background'"):
        plan_classes({"Background": None}, None, background="background")
    assert len(plan_classes(FOUND, None, ignore=("tumor",)).classes) == 2
    (tmp_path / "c.json").write_text('{"Gland": null, "gland ": null}')
    for wanted in ("a,b,B", "one x,onex", str(tmp_path / "c.json")):
        with pytest.raises(UserError, match="differ in case or blanks"):
            read_classes(wanted)


def test_a_class_with_a_comma_stands_in_quotes():
    found = {"Tumor, invasive": None, "Tumor, in situ": None, "fat": None}
    with pytest.raises(UserError, match='name: "Tumor, in situ", "Tumor, invasive"'):
        plan_classes(found, "fat")
    plan = plan_classes(found, 'fat,"Tumor, all":#c80000="Tumor, in situ"|"Tumor, invasive"')
    assert [spec.name for spec in plan.classes] == ["fat", "Tumor, all"]
    assert plan.classes[1].color == (200, 0, 0)
    assert plan.ids == {"fat": 0, "Tumor, in situ": 1, "Tumor, invasive": 1}


def test_a_class_may_be_absent():
    assert len(plan_classes(FOUND, "stroma,tumour=Tumor|tumor,fat").classes) == 3


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("stroma", "does not name: Tumor, tumor"),
        ("stroma,stroma", "named twice"),
        ("stroma,,Tumor", "empty"),
        ("a:#12=x", "no color"),
        ("nowhere.json", "is no file"),
    ],
)
def test_errors(wanted, says):
    with pytest.raises(UserError, match=says):
        plan_classes(FOUND, wanted)


def test_colors_and_files(tmp_path):
    text = "stroma,tumour:#c80000=Tumor|tumor"
    (tmp_path / "c.json").write_text(
        '{"stroma": null, "tumour": {"from": ["Tumor", "tumor"], "color": "#c80000"}}'
    )
    for wanted in (text, str(tmp_path / "c.json")):
        plan = plan_classes(FOUND, wanted)
        assert plan.ids == {"stroma": 0, "Tumor": 1, "tumor": 1}
        assert [spec.name for spec in plan.classes] == ["stroma", "tumour"] and plan.classes[
            1
        ].color == (200, 0, 0)


def test_a_background_that_polygons_do_not_leave():
    plan = plan_classes(
        ONCE | {"ROI": None}, None, background="glass", complete=False, rois=["ROI"]
    )
    assert (
        plan.outside == VOID
        and plan.background == 0
        and plan.classes[0].name == "glass"
        and "ROI" not in plan.ids
    )


def test_classes_without_a_polygon():
    plan = plan_classes(FOUND, "stroma,tumour=Tumor|tumor,fat", background="background")
    assert unseen_classes(plan, FOUND) == ["fat"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": {"color": "red"}}', "'red' is no color"),
        ("[1]", "holds no object"),
        ("{", "holds no object"),
        ('{"a": ["x"], "b": ["x"]}', "'x' is to be both a and b"),
    ],
)
def test_wrong_files(tmp_path, text, says):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=says):
        plan_classes(FOUND, str(tmp_path / "c.json"))


def test_a_color_of_the_palette_is_never_that_of_a_file():
    found = {"a": (150, 200, 150), "b": None, "c": (205, 5, 0)}
    plan = plan_classes(found, None, background="background", complete=True)
    colors = {spec.name: spec.color for spec in plan.classes}
    assert (
        colors["a"] == found["a"] and colors["c"] == found["c"] and len(set(colors.values())) == 4
    )
    assert not {colors["background"], colors["b"]} & {
        PALETTE[0],
        PALETTE[1],
    }  # taken, or too like what is
    many = plan_classes({f"n{i:02}": None for i in range(12)}, None)
    assert len({spec.color for spec in many.classes}) == len(PALETTE)
