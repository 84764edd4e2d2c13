import json

import pytest

from configs.demo import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.stages import diffusion
from stedm_jax.stages.data import check_unchanged
from stedm_jax.stages.orders import Orders
from stedm_jax.stages.run import Run, spread
from stedm_jax.stages.segmentation import Rows, _check_leaks
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir


@pytest.fixture
def run(tile_set, tmp_path):
    config = get_config("tiny")
    config.data.update(
        {"tiles": str(tile_set.path), "prepare": (), "tile": 32, "groups": (), "foreground": ()}
    )
    return Run(config, Workdir(tmp_path / "run"), make_mesh())


def test_training_on_held_out_patients_is_refused(run):
    with pytest.raises(UserError, match="trains on the split test"):
        run.sources({"train": 0.5, "test": 0.5})


def test_styles_of_held_out_patients_are_refused(run):
    run.config.synthesis.styles = "test"
    with pytest.raises(UserError, match="'test0' in synthesis and test"):
        Orders(run)


def test_judging_a_patient_who_was_learnt_from_is_refused(run):
    real = {"val": Rows(run.reader, run.rows("val")), "test": Rows(run.reader, run.rows("train"))}
    with pytest.raises(UserError, match="'train0' in test and training"):
        _check_leaks(run, real, None)


def test_orders_are_functions_of_seed_and_number_and_use_the_right_patients(run):
    one, other = Orders(run), Orders(run)
    assert [one[n] for n in range(20)] == [other[n] for n in (*range(10), *range(10, 20))]
    for order in (one[n] for n in range(20)):
        assert order.layout.split == "train" and {row.patient for row in order.styles} == {
            order.style_patient
        }
        assert {row.split for row in order.styles} == {"style"}
    assert {one[n].style_patient for n in range(20)} == {"style0", "style1"}
    run.config.seed = 1
    assert [Orders(run)[n] for n in range(20)] != [one[n] for n in range(20)]


def test_the_grid_keeps_a_style_in_a_column_and_a_layout_in_a_row(run):
    grid = Orders(run).grid(3, 2)
    assert len(grid) == 3 and all(len({order.layout for order in row}) == 1 for row in grid)
    assert all(len({order.styles for order in column}) == 1 for column in zip(*grid, strict=True))


def test_the_names_of_watched_samples_are_those_of_what_is_drawn(run):
    run.config.diffusion.watch.update({"layouts": 3, "styles": 2})
    batch = diffusion.grid(run)
    ((picture, (rows, columns)),) = diffusion.names(run).items()
    assert picture == "samples" and (rows[0], columns[0]) == ("style", "layout")
    orders = Orders(run).grid(3, 2)
    assert rows[1:] == [row[0].layout.patient for row in orders]
    assert columns[1:] == [order.style_patient for order in orders[0]] == ["style0", "style1"]
    assert batch["mask"].shape[:2] == (len(rows) - 1, len(columns) - 1)
    assert json.loads(
        (run.workdir.path / "diffusion" / "images" / diffusion.WHOSE).read_text()
    ) == {
        "layouts": rows[1:],
        "styles": columns[1:],
    }


def test_tiles_of_another_size_are_refused(run):
    run.config.data.tile = 64
    with pytest.raises(UserError, match="32 px at 2 um/px"):
        _ = run.tiles


def test_a_stage_before_its_time_is_refused(run):
    with pytest.raises(UserError, match="needs autoencoder, latents"):
        run.need("autoencoder", "latents")


def test_spread_is_even_and_never_repeats():
    assert spread(list(range(10)), 4) == [0, 3, 6, 9] and spread([1, 2], 5) == [1, 2]


def test_tiles_that_changed_under_a_run_are_noticed(run):
    check_unchanged(run, "refuse")
    with run.workdir.timed("data") as result:
        result["fingerprint"] = run.tiles.fingerprint
    (run.workdir.stage("diffusion") / "done.json").write_text("{}")
    check_unchanged(run, "redo")
    assert run.workdir.result("diffusion") is not None
    run.tiles.manifest["classes"] = run.tiles.manifest["classes"][::-1]
    with pytest.raises(UserError, match="not those that .* began with"):
        check_unchanged(run, "refuse")
    check_unchanged(run, "keep")
    assert run.workdir.result("diffusion") is not None
    check_unchanged(run, "redo")
    assert run.workdir.result("data") is None and not (run.workdir.path / "diffusion").exists()
