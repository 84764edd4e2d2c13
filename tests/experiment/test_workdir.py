import json
import shutil

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.cells import TILES, Graph
from stedm_jax.experiment.counted import best_of_cell
from stedm_jax.experiment.saved import saved_settings
from stedm_jax.experiment.segmenters import trained
from stedm_jax.experiment.workdir import ABSENT, BEGUN, DONE, STALE, Workdir, versions
from stedm_jax.settings.flat import flatten
from tests.experiment.settings import base


def adopt(workdir, settings, on_change="refuse", tiles="t", wanted=None):
    graph = Graph(settings)
    names = wanted or graph.goals
    return workdir.adopt(graph, graph.stamps(tiles), names, flatten(settings), on_change)


def states(workdir, settings, tiles="t"):
    graph = Graph(settings)
    stamps = graph.stamps(tiles)
    return {name: workdir.state(graph[name], stamps) for name in graph.goals}


@pytest.fixture
def used(tmp_path):
    """A workdir in which every cell has finished."""
    workdir, settings = Workdir(tmp_path / "run"), base()
    adopt(workdir, settings)
    graph = Graph(settings)
    stamps = graph.stamps("t")
    for name in graph.goals:
        workdir.begin(graph[name], stamps[name])
        with workdir.timed(name) as result:
            result["fingerprint"] = stamps[TILES]
    return workdir


def test_the_same_configuration_goes_on(used):
    assert adopt(used, base()) == []
    assert set(states(used, base()).values()) == {DONE}


def test_a_change_names_the_cells_and_the_key(used):
    changed = base(synthesis__guidance__scale=3.0)
    with pytest.raises(UserError) as error:
        adopt(used, changed)
    text = str(error.value)
    assert "synthesis/synthetic (synthesis.guidance.scale: 1.5 -> 3.0)" in text
    assert "segmentation/labelled+synthetic/2 (what it is made from changed)" in text
    assert "generator" not in text and "segmentation/labelled/" not in text
    assert set(states(used, base()).values()) == {DONE}


def test_redo_deletes_what_is_stale_and_nothing_else(used):
    changed = base(synthesis__guidance__scale=3.0)
    lines = adopt(used, changed, "redo")
    assert lines[0].startswith("synthesis/synthetic: synthesis.guidance.scale")
    found = states(used, changed)
    assert {name for name, state in found.items() if state == ABSENT} == {
        "synthesis/synthetic",
        *(f"segmentation/labelled+synthetic/{seed}" for seed in (0, 1, 2)),
    }
    assert not (used.path / "synthesis/synthetic").exists()
    assert found["judge"] == found["segmentation/labelled/0"] == DONE
    assert found["quality/synthetic"] == found["report"] == STALE  # deleted when made again


def test_keep_takes_what_is_there_as_it_is(used):
    changed = base(synthesis__guidance__scale=3.0)
    adopt(used, changed, "keep")
    found = states(used, changed)
    assert found["synthesis/synthetic"] == DONE
    assert adopt(used, changed) == []


def test_only_wanted_cells_and_those_before_them_are_compared(used):
    changed = base(synthesis__guidance__scale=3.0)
    assert adopt(used, changed, wanted=["segmentation/labelled/0"]) == []
    with pytest.raises(UserError, match="synthesis/synthetic"):
        adopt(used, changed, wanted=["segmentation/labelled+synthetic/0"])


def test_the_report_is_made_again_without_a_question(used):
    changed = base(report__intro="new")
    assert adopt(used, changed) == []
    assert states(used, changed)["report"] == STALE


def test_harmless_changes_invalidate_nothing(used):
    changed = base(diffusion__train__log_every=1, mesh__fsdp=2)
    assert adopt(used, changed) == []
    assert set(states(used, changed).values()) == {DONE}


def test_tiles_that_changed_under_a_run_are_noticed(used):
    with pytest.raises(UserError, match="the tiles are not those that this run began with"):
        adopt(used, base(), tiles="other")
    (used.path / "data" / "tiles").mkdir()
    adopt(used, base(), "redo", tiles="other")
    assert (used.path / "data" / "tiles").is_dir()  # the new tiles may lie there
    assert set(states(used, base(), "other").values()) == {ABSENT, STALE}


def test_tiles_that_changed_can_be_kept(used):
    adopt(used, base(), "keep", tiles="other")
    assert states(used, base(), "other")["generator/stedm"] == DONE
    assert adopt(used, base(), tiles="other") == []


def test_data_that_was_interrupted_goes_on_once_the_tiles_are_there(tmp_path):
    workdir, graph = Workdir(tmp_path), Graph(base())
    adopt(workdir, base(), tiles="")
    workdir.begin(graph["data"], graph.stamps("")["data"])
    (tmp_path / "data" / "tiles").mkdir()
    assert states(workdir, base(), "t")["data"] == BEGUN


def test_a_cell_that_failed_at_once_can_be_corrected(tmp_path):
    workdir, graph = Workdir(tmp_path), Graph(base())
    adopt(workdir, base())
    workdir.begin(graph["autoencoder"], graph.stamps("t")["autoencoder"])
    with pytest.raises(UserError), workdir.timed("autoencoder"):
        raise UserError("the batch does not divide")
    assert adopt(workdir, base(autoencoder__train__batch=16)) == []


def test_files_without_a_record_are_never_used(tmp_path):
    workdir = Workdir(tmp_path)
    adopt(workdir, base())
    (workdir.folder("autoencoder") / "done.json").write_text("{}")
    assert states(workdir, base())["autoencoder"] == STALE


def test_a_run_of_version_0_1_gets_one_clear_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(UserError, match=r"made by stedm_jax 0\.1.*another --workdir"):
        adopt(Workdir(tmp_path), base())


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"holiday.jpg; it is no workdir"):
        adopt(Workdir(tmp_path), base())


def test_tiles_prepared_by_hand_make_no_foreign_folder(tmp_path):
    (tmp_path / "data" / "tiles").mkdir(parents=True)
    assert adopt(Workdir(tmp_path), base()) == []


def test_a_first_write_that_was_cut_off_does_not_lock_the_folder(tmp_path):
    (tmp_path / ".config.json.partial-1").touch()
    assert adopt(Workdir(tmp_path), base()) == []


def test_a_stale_link_is_refused_and_what_it_points_to_stays(used, tmp_path):
    elsewhere = (used.path / "autoencoder").rename(tmp_path / "elsewhere")
    (used.path / "autoencoder").symlink_to(elsewhere)
    with pytest.raises(UserError, match="autoencoder is a link"):
        adopt(used, base(autoencoder__kl_weight=0.5), "redo")
    assert (elsewhere / "done.json").exists()


@pytest.mark.parametrize("name", ["autoencoder", "segmentation/labelled/0", "report"])
def test_a_stale_link_is_refused_before_anything_is_deleted(used, tmp_path, name):
    elsewhere = (used.path / name).rename(tmp_path / "elsewhere")
    (used.path / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"{name} is a link"):
        adopt(used, base(), "redo", tiles="other")
    assert set(states(used, base()).values()) == {DONE}


def test_what_a_link_in_a_folder_leads_to_is_work_that_was_left(tmp_path):
    workdir, graph = Workdir(tmp_path / "run"), Graph(base())
    adopt(workdir, base())
    workdir.begin(graph["judge"], graph.stamps("t")["judge"])
    (tmp_path / "disk" / "7").mkdir(parents=True)
    (tmp_path / "run/judge/checkpoints").symlink_to(tmp_path / "disk")
    assert states(workdir, base(), "other")["judge"] == STALE
    adopt(workdir, base(), "redo", tiles="other")
    assert not (tmp_path / "run/judge").exists() and (tmp_path / "disk/7").exists()


def test_a_training_with_more_steps_goes_on_and_what_follows_is_made_again(used):
    longer = base(segmentation__train__steps=10**6, synthesis__count=7)
    folder = used.path / "segmentation/labelled/0"
    for name in ("scores.json", "checkpoints"):
        (folder / name).touch()
    with pytest.raises(UserError, match=r"steps: \d+ -> 1000000; redo goes on from its last"):
        adopt(used, longer)
    adopt(used, longer, "redo")
    found = states(used, longer)
    assert found["segmentation/labelled/0"] == found["judge"] == BEGUN
    assert (folder / "checkpoints").exists() and not (folder / "scores.json").exists()
    # Whose synthetic tiles are others begins anew.
    assert found["segmentation/labelled+synthetic/0"] == ABSENT


@pytest.mark.parametrize(
    "changes",
    [
        {"segmentation__train__steps": 1},
        {"segmentation__train__steps": 10**6, "segmentation__ce_weight": 0.5},
    ],
)
def test_a_training_that_is_shorter_or_another_one_begins_anew(used, changes):
    adopt(used, base(**changes), "redo")
    assert states(used, base(**changes))["segmentation/labelled/0"] == ABSENT


def test_a_schedule_over_all_steps_says_why_it_begins_anew(tmp_path):
    cosine = {"diffusion__train__optimizer__schedule": "cosine"}
    workdir, settings = Workdir(tmp_path), base(**cosine)
    adopt(workdir, settings)
    graph = Graph(settings)
    workdir.begin(graph["generator/stedm"], graph.stamps("t")["generator/stedm"])
    with workdir.timed("generator/stedm"):
        pass
    longer = base(**cosine, diffusion__train__steps=10**7)
    with pytest.raises(UserError, match="redo begins anew, because .*schedule"):
        adopt(workdir, longer)
    adopt(workdir, longer, "redo")
    assert states(workdir, longer)["generator/stedm"] == ABSENT


def test_before_the_tiles_are_known_settings_alone_are_compared(used):
    shutil.rmtree(used.path / "data")
    found = states(used, base(), tiles="")
    assert found["data"] == ABSENT and found["autoencoder"] == found["report"] == DONE
    with pytest.raises(UserError, match="autoencoder.kl_weight: 1e-06 -> 0.5"):
        adopt(used, base(autoencoder__kl_weight=0.5), tiles="")


def test_a_damaged_clock_costs_nothing(used):
    (used.path / "judge" / "seconds.json").write_text("")
    with used.timed("judge"):
        pass
    assert used.result("judge")["seconds"] < 100


def test_a_lost_config_is_written_again(used):
    (used.path / "config.json").unlink()
    assert adopt(used, base()) == []


@pytest.mark.parametrize("text", ["", "{", '{"stamp"'])
def test_a_damaged_record_names_the_file_and_what_to_delete(used, text):
    (used.path / "judge" / "cell.json").write_text(text)
    with pytest.raises(UserError, match=r"judge/cell.json is empty or .* the folder .*judge"):
        adopt(used, base())


@pytest.mark.parametrize("text", ["", '{"confusion": {', "\0\0"])
def test_every_reader_of_a_run_names_a_damaged_file_and_what_to_delete(used, text):
    folder, root = used.path / "segmentation/labelled/0", used.path
    (folder / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"scores.json is empty .*Delete it and .*0/done.json"):
        trained(root)
    (folder / "done.json").write_text(text)
    with pytest.raises(UserError, match=r"done.json is empty or damaged .*Delete this file"):
        used.result("segmentation/labelled/0")
    (root / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json is empty or damaged"):
        saved_settings(root)
    (root / "judge/cell.json").write_text(text)
    with pytest.raises(UserError, match=r"cell.json is empty or damaged"):
        best_of_cell(root / "judge")


def test_a_cell_is_made_by_one_process_at_a_time(used, monkeypatch):
    monkeypatch.setattr("stedm_jax.experiment.workdir.PATIENCE", 0.0)
    other = Workdir(used.path)
    with (
        used.making("generator/stedm"),
        other.making("judge"),
        pytest.raises(UserError, match="is making generator/stedm"),
    ):
        adopt(other, base(diffusion__loss="l2"), "redo")
    assert states(used, base())["generator/stedm"] == DONE


def test_seconds_add_up_over_interruptions(tmp_path):
    workdir = Workdir(tmp_path)
    with pytest.raises(KeyboardInterrupt), workdir.timed("data"):
        raise KeyboardInterrupt
    (tmp_path / "data/seconds.json").write_text(json.dumps(100.0))
    assert workdir.result("data") is None
    with workdir.timed("data"):
        pass
    assert workdir.result("data")["seconds"] >= 100


def test_no_git_is_no_trouble(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert versions()["git"] == "none"
