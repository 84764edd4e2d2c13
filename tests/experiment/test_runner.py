"""How cells are run: in order, once, by several processes, and after an interruption."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.experiment import devices, runner
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.runner import Share, run_cells
from stedm_jax.experiment.workdir import Workdir
from tests.experiment.settings import tiny
from tests.experiment.test_cells import SEVERAL


@pytest.fixture
def made(monkeypatch):
    """Cells that were made, in order; stages are stand-ins that leave their name."""
    names: list[str] = []

    def run(context, cell, learned):
        with context.workdir.timed(cell.name) as result:
            names.append(cell.name)
            result["fingerprint"] = context.tiles.fingerprint

    monkeypatch.setattr(runner.importlib, "import_module", lambda name: SimpleNamespace(run=run))
    for name in ("check_cells", "check_weights", "enable_compile_cache"):
        monkeypatch.setattr(runner, name, lambda *_: None)
    monkeypatch.setattr(runner, "PAUSE", 0.01)
    return names


@pytest.fixture
def settings(tile_set):
    return tiny(tile_set.path, **SEVERAL)


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path / "run")


def test_all_cells_are_made_once_and_in_order(settings, workdir, made, capsys):
    run_cells(settings, workdir, [], "refuse")
    assert made == Graph(settings).goals
    run_cells(settings, workdir, [], "refuse")
    assert made == Graph(settings).goals and "All is done" in capsys.readouterr().out


def test_a_changed_set_is_made_again_with_the_arms_that_read_it(tile_set, settings, workdir, made):
    run_cells(settings, workdir, [], "refuse")
    made.clear()
    sets = {"one": {"generator": "stedm"}, "two": {"generator": "plain"}}
    changed = tiny(tile_set.path, **SEVERAL | {"synthesis__sets": sets})
    with pytest.raises(UserError, match=r"synthesis/two \(synthesis.steps: 20 -> 3\)"):
        run_cells(changed, workdir, [], "refuse")
    assert not made
    run_cells(changed, workdir, [], "redo")
    assert made == [
        "synthesis/two",
        "quality/two",
        "segmentation/b/0",
        "segmentation/b/1",
        "report",
    ]


def test_an_added_arm_is_trained_alone(tile_set, settings, workdir, made):
    run_cells(settings, workdir, [], "refuse")
    made.clear()
    arms = SEVERAL["segmentation__arms"] | {"jitter": {"real": 1.0, "stain_jitter": 0.2}}
    changed = tiny(tile_set.path, **SEVERAL | {"segmentation__arms": arms})
    run_cells(changed, workdir, [], "refuse")
    assert made == ["segmentation/jitter/0", "segmentation/jitter/1", "report"]


def test_deleted_checkpoints_are_said_to_be_that(settings, workdir, made):
    run_cells(settings, workdir, [], "refuse")
    folder = workdir.path / "generator/plain"
    (folder / "metrics.jsonl").touch()
    run_cells(settings, workdir, [], "refuse")  # all is done, and nothing needs them
    says = r"generator/plain has finished, but its checkpoints were deleted"
    with pytest.raises(UserError, match=says):
        run_cells(settings, workdir, ["generator/plain"], "refuse")
    shutil.rmtree(workdir.path / "synthesis/two")
    made.clear()
    with pytest.raises(UserError, match=says):
        run_cells(settings, workdir, [], "refuse")
    shutil.rmtree(folder)
    run_cells(settings, workdir, [], "refuse")
    assert made == ["generator/plain", "synthesis/two"]


def test_the_settings_that_differ_fill_at_most_a_screen(settings, workdir, made, capsys):
    run_cells(settings, workdir, ["data"], "refuse")
    short = [line for line in capsys.readouterr().out.splitlines() if line.startswith("config")]
    run_cells(settings, workdir, ["data"], "refuse", verbose=True)
    long = [line for line in capsys.readouterr().out.splitlines() if line.startswith("config")]
    assert len(short) == runner.SHOWN + 1 < len(long) and max(map(len, short)) <= 100
    assert f"and {len(long) - runner.SHOWN} more" in short[-1]


def test_a_platform_that_is_not_there_is_named(settings, workdir, monkeypatch):
    def fails():
        raise AssertionError

    monkeypatch.setattr(devices.jax, "devices", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match="no device with JAX_PLATFORMS=cuda .*AssertionError"):
        run_cells(settings, workdir, [], "refuse")


def test_single_cells_are_made_if_what_they_need_is_there(settings, workdir, made):
    with pytest.raises(UserError, match="needs data, autoencoder, latents, generator/plain"):
        run_cells(settings, workdir, ["synthesis/two"], "refuse")
    run_cells(settings, workdir, ["data", "segmentation/labelled/1"], "refuse")
    assert made == ["data", "segmentation/labelled/1"]


def test_a_cell_that_fails_stops_the_run_and_the_rest_goes_on(settings, workdir, made, monkeypatch):
    stage = runner.importlib.import_module("any").run

    def fails(context, cell, learned):
        if cell.name == "generator/plain":
            raise UserError("no")
        stage(context, cell, learned)

    with monkeypatch.context() as patch:
        patch.setattr(runner.importlib, "import_module", lambda _: SimpleNamespace(run=fails))
        with pytest.raises(UserError, match="^no$"):
            run_cells(settings, workdir, [], "refuse")
    before = list(made)
    run_cells(settings, workdir, [], "refuse")
    assert made == Graph(settings).goals and before == made[: len(before)]


def test_shares_make_every_cell_once_and_the_last_one_the_report(settings, workdir, made):
    run_cells(settings, workdir, [], "refuse", Share(1, 2))
    half = list(made)
    assert "report" not in made and len(half) < len(Graph(settings).goals)
    run_cells(settings, workdir, [], "refuse", Share(2, 2))
    assert sorted(made) == sorted(Graph(settings).goals) and made[-1] == "report"


def test_a_share_makes_what_its_cells_need_even_if_no_other_runs(settings, workdir, made):
    graph = Graph(settings)
    goals = [name for name in graph.goals if name != "report"][6::7]
    run_cells(settings, workdir, [], "refuse", Share(7, 7))
    assert set(goals) <= set(made) <= set(goals).union(*(graph.before(name) for name in goals))


def test_a_share_waits_for_a_cell_that_another_process_makes(settings, workdir, made, capsys):
    other = Workdir(workdir.path)
    run_cells(settings, workdir, ["data"], "refuse")

    @contextmanager
    def elsewhere():
        with other.making("autoencoder"):
            yield

    with ThreadPoolExecutor() as pool, elsewhere():
        share = Share(1, 1)
        wanted = ["autoencoder", "latents"]
        job = pool.submit(runner_of(settings, workdir, wanted, share).run, "refuse")
        with pytest.raises(TimeoutError):
            job.result(timeout=0.5)
        assert "autoencoder" not in made
        other_made(settings, other, "autoencoder")
    job.result(timeout=20)
    assert made == ["data", "latents"]
    assert "waiting for autoencoder" in capsys.readouterr().out


def runner_of(settings, workdir, wanted, share):
    context = runner.Context(settings, workdir, runner.mesh_of(settings))
    made = runner._Runner(context, Graph(settings), wanted, share)
    made.adopt("refuse")
    return made


def other_made(settings, workdir, name):
    """What another process leaves."""
    graph = Graph(settings)
    stamps = graph.stamps(workdir.result("data")["fingerprint"])
    workdir.begin(graph[name], stamps[name])
    with workdir.timed(name):
        pass


def test_a_second_run_is_refused_while_a_cell_is_being_made(settings, workdir, made, monkeypatch):
    run_cells(settings, workdir, ["data"], "refuse")
    monkeypatch.setattr(runner, "PATIENCE", 0.0)
    with (
        Workdir(workdir.path).making("autoencoder"),
        pytest.raises(UserError, match="is making autoencoder in .* share the work with --cells"),
    ):
        run_cells(settings, workdir, ["autoencoder"], "refuse")


def test_a_cell_that_another_run_made_with_other_settings_is_not_taken(
    tile_set, settings, workdir, made, monkeypatch
):
    """Both runs began when the cell was not there."""
    run_cells(settings, workdir, ["data"], "refuse")
    mine = runner_of(settings, workdir, ["segmentation/labelled/0"], None)
    other = tiny(tile_set.path, **SEVERAL, segmentation__ce_weight=0.5)
    run_cells(other, Workdir(workdir.path), ["segmentation/labelled/0"], "refuse")
    (workdir.path / "segmentation/labelled/0/scores.json").write_text("{}")
    with pytest.raises(UserError, match="Another run made segmentation/labelled/0 .*ce_weight"):
        mine.run("refuse")


def test_what_a_cell_needs_must_hold_and_not_only_be_there(tile_set, settings, workdir, made):
    run_cells(settings, workdir, [], "refuse")
    changed = tiny(tile_set.path, **SEVERAL, segmentation__ce_weight=0.5)
    with pytest.raises(UserError, match="That invalidates"):
        run_cells(changed, workdir, ["report"], "refuse")


def test_data_that_was_deleted_is_made_again_and_nothing_else(tile_set, workdir, made, monkeypatch):
    settings = tiny(tile_set.path, data__prepare=("data_prep.phantom --out=any",))
    run_cells(settings, workdir, [], "refuse")
    made.clear()
    shutil.rmtree(workdir.path / "data")
    moved = tile_set.path.rename(tile_set.path.with_name("away"))
    stage = runner.importlib.import_module("any").run

    def run(context, cell, learned):
        moved.rename(tile_set.path)
        stage(context, cell, learned)

    monkeypatch.setattr(runner.importlib, "import_module", lambda _: SimpleNamespace(run=run))
    run_cells(settings, workdir, [], "refuse")
    assert made == ["data"]


def test_cells_that_need_a_stage_that_is_left_out_are_refused_at_the_start(tile_set, workdir, made):
    stages = ("data", "autoencoder", "latents", "generator", "segmentation", "report")
    settings = tiny(tile_set.path, stages=stages)
    with pytest.raises(UserError, match="needs synthesis/synthetic, which has not finished"):
        run_cells(settings, workdir, [], "refuse")
    assert not made


def test_a_stage_that_is_asked_for_runs_though_the_configuration_leaves_it_out(
    tile_set, workdir, made
):
    run_cells(tiny(tile_set.path), workdir, ["data", "ssl"], "refuse")
    assert made == ["data", "ssl"]


def test_a_report_that_no_longer_holds_is_deleted_when_it_is_made_again(
    tile_set, settings, workdir, made
):
    run_cells(settings, workdir, [], "refuse")
    (workdir.path / "report" / "table_old.txt").write_text("old")
    changed = tiny(tile_set.path, **SEVERAL, report__intro="new")
    run_cells(changed, workdir, ["autoencoder"], "refuse")
    assert (workdir.path / "report" / "table_old.txt").exists()
    run_cells(changed, workdir, [], "refuse", Share(1, 1))
    assert made[-1] == "report" and not (workdir.path / "report" / "table_old.txt").exists()


def test_whole_images_are_checked_at_every_start(tile_set, settings, workdir, made):
    run_cells(settings, workdir, ["data"], "refuse")
    other = tiny(tile_set.path, **SEVERAL, report__whole="nowhere")
    with pytest.raises(UserError, match="holds no whole images"):
        run_cells(other, workdir, [], "refuse")


def test_a_stop_file_stops_every_share_once(settings, workdir, made):
    run_cells(settings, workdir, ["data"], "refuse")
    (workdir.path / "STOP").touch()
    os.utime(workdir.path / "STOP", (1, 1))  # of an earlier run
    run_cells(settings, workdir, ["autoencoder"], "refuse", Share(1, 2))
    assert made == ["data", "autoencoder"] and (workdir.path / "STOP").exists()


@pytest.mark.parametrize("text", ["2", "0/3", "4/3", "a/b", "1/2/3"])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(UserError, match=f"--cells={text} is no share"):
        Share.parse(text)


def test_a_share_is_read():
    assert Share.parse("2/8") == Share(2, 8) and Share.parse("") is None
