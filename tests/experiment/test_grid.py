"""Draws of the labeled patients x seeds of the generators: cells, splits, seeds, plan."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.experiment import runner
from stedm_jax.experiment.arm_tiles import Rows, arm_dataset, check_labelled, learned_patients
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import APART, Context
from stedm_jax.experiment.held_out import learned_from
from stedm_jax.experiment.orders import Orders
from stedm_jax.experiment.plan import print_plan
from stedm_jax.experiment.points import without_point
from stedm_jax.experiment.runner import run_cells
from stedm_jax.experiment.segmenters import check_leaks, trained
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.grid import Draw, Point
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import base, tiny
from tests.experiment.test_cells import SEVERAL

DRAWS = {"one": {"train": ("train0",)}, "two": {"train": ("train1",), "style": ("train0",)}}
GRID = {"grid__draws": DRAWS, "grid__generator_seeds": (0, 3)}
EXACT = {"autoencoder__train__steps": 0, "autoencoder__init_from": ("somewhere",)}


@pytest.fixture
def context(tile_set, tmp_path):
    settings = tiny(tile_set.path, **GRID, data__shares=(), synthesis__shares=())
    return Context(settings, Workdir(tmp_path / "run"), make_mesh())


def changed(before, after):
    old, new = (Graph(each).stamps("tiles") for each in (before, after))
    return {name for name in old if new.get(name) != old[name]}


def test_cells_are_crossed_and_need_those_of_their_own_point():
    graph = Graph(base(**SEVERAL, **GRID))
    seen = set()
    for name in graph:
        assert {*graph[name].needs, *graph[name].after} <= seen
        seen.add(name)
    assert {"data", "report", "autoencoder@one", "judge@two", "latents@one"} <= seen
    assert graph["segmentation/a@two.3/1"].needs == ("data", "synthesis/one@two.3")
    assert graph["quality/two@one.0"].needs == ("data", "synthesis/two@one.0", "judge@one")
    assert graph["generator/plain@one.3"].needs == ("data", "autoencoder@one", "latents@one")
    labelled = [name for name in graph if name.startswith("segmentation/labelled")]
    assert labelled == [f"segmentation/labelled@{draw}/{n}" for draw in DRAWS for n in (0, 1)]
    assert sum(name.startswith("generator/") for name in graph) == 2 * 2 * 2
    assert len([name for name in graph if name.startswith("segmentation/b@")]) == 2 * 2 * 2


def test_a_first_stage_that_learns_nothing_is_one_for_all_draws():
    graph = Graph(base(**GRID, **EXACT))
    assert graph["generator/stedm@two.3"].needs == ("data", "autoencoder", "latents")
    measured = Graph(base(**GRID, **EXACT, latents__scale=0.0))
    assert measured["generator/stedm@two.3"].needs == ("data", "autoencoder", "latents@two")


def test_without_draws_seed_0_is_the_run_as_it_was():
    plain, more = base(**SEVERAL), base(**SEVERAL, grid__generator_seeds=(0, 2))
    assert changed(plain, more) == {"report"}
    new = set(Graph(more)) - set(Graph(plain))
    assert "generator/stedm@2" in new and "segmentation/a@2/0" in new
    assert not [name for name in new if "labelled" in name or "judge" in name]


def test_stamps_read_the_patients_and_the_seed():
    before = base(**SEVERAL, **GRID)
    draws = DRAWS | {"two": {"train": ("train1",)}}
    found = changed(before, base(**SEVERAL, **GRID | {"grid__draws": draws}))
    assert found == {name for name in Graph(before) if "@two" in name} | {"report"}
    graph = Graph(before)
    assert graph["generator/stedm@one.3"].reads["grid.generator_seed"] == 3
    assert graph["judge@two"].reads["grid.draw.style"] == ["train0"]
    assert "grid.generator_seed" not in graph["generator/stedm@one.0"].reads


def test_names_without_a_point_mean_all_points():
    graph = Graph(base(**SEVERAL, **GRID))
    assert graph.select(["segmentation/labelled"]) == [
        f"segmentation/labelled@{draw}/{seed}" for draw in DRAWS for seed in (0, 1)
    ]
    assert len(graph.select(["synthesis/one"])) == 4
    assert graph.select(["segmentation/a@one.3", "judge@two"]) == [
        "segmentation/a@one.3/0",
        "segmentation/a@one.3/1",
        "judge@two",
    ]
    assert len(graph.select(["segmentation/a/1"])) == 4
    with pytest.raises(UserError, match=r"valid are .*synthesis/one.*: @one, @one.0, @one.3, @two"):
        graph.select(["synthesis/one@three.0"])
    assert without_point("segmentation/a@one.3/1") == "segmentation/a/1"


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"draws": {"1": {}}}, "has '1', which is no name"),
        ({"draws": {"a": {"train": ("p",), "val": ("p",)}}}, "draws.a names p more than once"),
        ({"generator_seeds": (1, 1)}, "which has a seed twice"),
    ],
)
def test_impossible_grids_are_refused(grid, says):
    with pytest.raises(UserError, match=says):
        base(**{f"grid__{key}": value for key, value in grid.items()})


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        ({"train": ("P99",)}, r"draws.a.train names 'P99', who is not there; there are st"),
        ({"style": ("test0",)}, "names 'test0', who is a test patient and stays one"),
        ({"val": ("style0",)}, "names 'style0', who was packed as style, without labels"),
        ({"val": ("train0", "train1")}, "draws.a leaves no patient in train"),
    ],
)
def test_draws_that_the_tiles_do_not_allow_are_refused(tile_set, tmp_path, draw, says):
    settings = tiny(tile_set.path, grid__draws={"a": draw})
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    with pytest.raises(UserError, match=says):
        _ = context.tiles


def test_a_patient_that_a_draw_names_nowhere_keeps_its_split_unless_that_was_given():
    draw = Draw(train=("a",), style=("b",))
    found = [draw.split_of(*each) for each in (("a", "train"), ("b", "val"), ("c", "train"))]
    assert found == ["train", "style", ""]
    assert draw.split_of("v", "val") == "val" and draw.split_of("s", "style") == ""
    assert draw.split_of("a", "test") == "test"


def test_a_draw_moves_patients_and_hides_the_labels_of_those_without(context):
    one, two = context.at(Point("one")), context.at(Point("two", 3))
    assert {row.patient for row in one.rows("train")} == {"train0"}
    assert {row.patient for row in one.rows("style")} == {"style0", "style1"}
    assert two.tiles.patients("train") == ["train1"] and two.tiles.patients("val") == [
        "val0",
        "val1",
    ]
    rows = two.rows("style")
    assert {row.patient for row in rows} == {"train0"} and not any(row.labelled for row in rows)
    packed = [row for row in context.rows("train") if row.patient == "train0"]
    assert [row.record for row in rows] == [row.record for row in packed]
    for row in rows:
        image, mask = two.reader.read(row)
        assert (mask == VOID).all()
        np.testing.assert_array_equal(image, context.reader.read(row)[0])
    assert any((one.reader.read(row)[1] != VOID).any() for row in rows)
    assert context.rows("train") == one.packed_tiles.index("train")


def test_what_is_made_in_a_draw_keeps_to_its_patients(context):
    two = context.at(Point("two", 3))
    synthesis, style = two.settings.synthesis, two.settings.diffusion.style
    orders = Orders(two, synthesis, style)
    made = [orders[n] for n in range(12)]
    assert {order.layout.patient for order in made} == {"train1"}
    assert {order.style_patient for order in made} == {"train0"}
    again, other = (Orders(context.at(Point("two", seed)), synthesis, style) for seed in (3, 0))
    assert [again[n] for n in range(12)] == made != [other[n] for n in range(12)]
    assert two.seed == context.seed + 3 * APART and context.seed == context.settings.seed


def test_inverted_tiles_have_style_tiles_of_their_own_patient(tile_set, tmp_path):
    # Both patients have the same record numbers, each in the split it was packed in.
    draw = {"train": ("train0", "val0"), "val": ("val1",), "style": ("train1",)}
    settings = tiny(tile_set.path, grid__draws={"a": draw}, data__shares=(), synthesis__shares=())
    at = Context(settings, Workdir(tmp_path / "run"), make_mesh()).at(Point("a"))
    inverted = replace(settings.synthesis, start="inversion")
    orders = Orders(at, inverted, settings.diffusion.style)
    made = [orders[n] for n in range(12)]
    assert {order.layout.patient for order in made} == {"train0", "val0"}
    for order in made:
        assert {row.patient for row in order.own} == {order.layout.patient}
        assert order.layout not in order.own


def test_a_patient_may_be_judged_in_one_draw_and_learned_from_in_another(tile_set, tmp_path):
    draws = {"one": {"val": ("train0",)}, "two": {}}
    settings = tiny(tile_set.path, grid__draws=draws)
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    one, two = context.at(Point("one")), context.at(Point("two"))
    scored = {"val": Rows(one.reader, one.rows("val"))}
    check_leaks(learned_patients(one, "labelled"), scored)
    with pytest.raises(UserError, match="'train0' in training and val"):
        check_leaks(learned_patients(two, "labelled"), scored)
    assert learned_from(context)["segmentation"] == ["train0", "train1"]


def test_an_arm_on_all_labels_reads_those_that_a_draw_hides(tile_set, tmp_path):
    arms = {"all": {"real": 1.0, "stain_jitter": 0.0, "splits": (("train", 0.5), ("style", 0.5))}}
    settings = tiny(tile_set.path, **GRID, segmentation__arms=arms, data__shares=())
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    _, sources = arm_dataset(context.at(Point("two")), "all", 0)
    found = {source.rows[0].patient: source for source in sources}
    assert set(found) == {"train0", "train1"}
    hidden = found["train0"]
    assert all((hidden.reader.read(row)[1] != VOID).any() for row in hidden.rows)
    with pytest.raises(UserError, match="arms.all.splits names 'style', and the tiles"):
        check_labelled(context.at(Point("one")), "all")


def test_every_cell_is_run_at_its_point_and_programs_are_shared(context, monkeypatch, capsys):
    settings = replace(context.settings, compile_cache=False)
    made = {}

    def run(at, cell, learned):
        with at.workdir.timed(cell.name) as result:
            assert learned.context is at
            made[cell.name] = at.point, at.programs, at.memo
            result["fingerprint"] = at.tiles.fingerprint

    monkeypatch.setattr(runner.importlib, "import_module", lambda _: SimpleNamespace(run=run))
    for name in ("check_cells", "check_weights"):
        monkeypatch.setattr(runner, name, lambda *_: None)
    run_cells(settings, context.workdir, [], "refuse")
    graph = Graph(settings)
    assert list(made) == graph.goals
    assert all(point == graph[name].point for name, (point, *_) in made.items())
    one, other = made["segmentation/labelled@one/0"], made["segmentation/labelled@two/0"]
    assert one[1] is other[1] and one[2] is not other[2]
    assert f"0 of {len(graph.goals)} cells are done" in capsys.readouterr().out


def test_the_plan_has_a_row_for_all_points(context, capsys):
    settings = context.settings
    print_plan(settings, context.workdir)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["segmentation/labelled"][:2] == ["0", "4"]
    assert rows["segmentation/labelled+synthetic"][:2] == ["0", "8"]
    assert rows["generator/stedm"][:2] == ["0", "4"] and rows["judge"][:2] == ["0", "2"]
    hours = sum(float(row[-1]) for row in rows.values() if row[:1] == ["0"])
    assert hours == pytest.approx(float(rows["in"][-1]), abs=0.1)


def test_trained_segmenters_say_where_they_belong(tmp_path):
    cell = tmp_path / "segmentation" / "a@one.3" / "1"
    cell.mkdir(parents=True)
    scores = '{"arm": "a", "draw": "one", "generator_seed": 3, "seed": 1, "confusion": {}}'
    (cell / "scores.json").write_text(scores)
    (found,) = trained(tmp_path)
    assert (found.name, found.seed, found.cell) == ("a@one.3", 1, "segmentation/a@one.3/1")
