import json
import shutil

import pytest

from configs.base import get_base
from stedm_jax.common.errors import UserError
from stedm_jax.workdir import IMPLIED, NEEDS, STAGES, Workdir, flatten, stage_of, versions


@pytest.fixture
def used(tmp_path):
    workdir = Workdir(tmp_path / "run")
    with workdir.locked():
        workdir.adopt(get_base(), "refuse")
    for stage in STAGES:
        with workdir.timed(stage) as result:
            result["x"] = 1
    return workdir


def test_the_same_configuration_goes_on(used):
    with used.locked():
        assert used.adopt(get_base(), "refuse") == []
    assert all(used.result(stage)["x"] == 1 for stage in STAGES)


def test_a_change_names_the_key_and_what_it_makes_untrue(used):
    config = get_base()
    config.synthesis.guidance.scale = 3.0
    with pytest.raises(
        UserError,
        match=r"synthesis.guidance.scale: 1.5 -> 3.0.*untrue: synthesis, segmentation, report",
    ):
        used.adopt(config, "refuse")
    assert used.result("synthesis")


def test_redo_deletes_only_what_is_untrue_and_keep_nothing(used):
    config = get_base()
    config.synthesis.guidance.scale = 3.0
    used.adopt(config, "keep")
    assert used.result("synthesis")
    config.diffusion.loss = "l2"
    used.adopt(config, "redo")
    assert used.result("latents") and not used.started("diffusion") and not used.started("report")


def test_harmless_changes_are_listed_and_allowed(used):
    config = get_base()
    config.diffusion.train.log_every = 1
    config.mesh.fsdp = 2
    assert len(used.adopt(config, "refuse")) == 2


def test_a_workdir_from_before_a_setting_is_taken_to_have_its_old_value(used):
    file = used.path / "config.json"
    old = {key: value for key, value in json.loads(file.read_text()).items() if key not in IMPLIED}
    assert len(old) == len(flatten(get_base())) - len(IMPLIED)
    file.write_text(json.dumps(old))
    assert not used.adopt(get_base(), "refuse")
    file.write_text(json.dumps(old))
    config = get_base()
    config.segmentation.head.kind = "linear"
    with pytest.raises(UserError, match="segmentation.head.kind: convolution -> linear"):
        used.adopt(config, "refuse")


def test_every_key_belongs_to_a_stage_or_is_harmless():
    for key in flatten(get_base()):
        assert stage_of(key) in (*STAGES, None)
    assert stage_of("seed") == "autoencoder" and stage_of("data.tiles") == "data"
    assert stage_of("data.groups") == "autoencoder" and stage_of("diffusion.train.keep") is None


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match="holiday.jpg"):
        Workdir(tmp_path).adopt(get_base(), "refuse")


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    with (
        Workdir(tmp_path).locked(),
        pytest.raises(UserError, match="Another run"),
        Workdir(tmp_path).locked(0.0),
    ):
        pass


def test_seconds_add_up_over_interruptions(tmp_path):
    workdir = Workdir(tmp_path)
    with pytest.raises(KeyboardInterrupt), workdir.timed("data"):
        raise KeyboardInterrupt
    (tmp_path / "data/seconds.json").write_text(json.dumps(100.0))
    assert workdir.result("data") is None
    with workdir.timed("data"):
        pass
    assert workdir.result("data")["seconds"] >= 100


def test_a_first_write_that_was_cut_off_does_not_lock_the_folder(tmp_path):
    (tmp_path / "config.json.partial").touch()
    assert Workdir(tmp_path).adopt(get_base(), "refuse") == []


def test_a_stage_that_failed_at_once_can_be_corrected(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.adopt(get_base(), "refuse")
    with pytest.raises(UserError), workdir.timed("autoencoder"):
        raise UserError("the batch does not divide")
    config = get_base()
    config.autoencoder.train.batch = 16
    assert len(workdir.adopt(config, "refuse")) == 1


def test_no_git_is_no_trouble(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert versions()["git"] == "none"


@pytest.mark.parametrize(
    ("key", "value", "untrue"),
    [
        ("ssl.momentum", 0.9, "ssl, guided, segmentation, report"),
        ("ssl.train.steps", 7, "ssl, guided, segmentation, report"),
        (
            "autoencoder.kl_weight",
            0.5,
            "autoencoder, latents, diffusion, guided, synthesis, segmentation, report",
        ),
        ("latents.scale", 2.0, "latents, diffusion, guided, synthesis, segmentation, report"),
        ("diffusion.style.drop", 0.5, "diffusion, synthesis, segmentation, report"),
        ("guided.guide.drop", 0.5, "guided, segmentation, report"),
        ("segmentation.border", 4, "segmentation, report"),
        ("report.intro", "x", "report"),
        ("title", "x", "report"),
        ("seed", 1, ", ".join(STAGES[1:])),
        ("dtype", "float32", ", ".join(STAGES[1:])),
        ("data.shift", 8, ", ".join(STAGES[1:])),
        ("data.prepare", ("data_prep.folder",), ", ".join(STAGES)),
    ],
)
def test_a_key_makes_untrue_what_builds_on_it_and_nothing_else(used, key, value, untrue):
    config = get_base()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"untrue: {untrue}\. "):
        used.adopt(config, "refuse")
    used.adopt(config, "redo")
    assert [stage for stage in STAGES if not used.started(stage)] == untrue.split(", ")


def test_the_chain_breaks_where_a_stage_was_never_run(used):
    shutil.rmtree(used.path / "guided")
    config = get_base()
    config.ssl.momentum = 0.9
    with pytest.raises(
        UserError, match=r"untrue: ssl, report\. "
    ):  # the segmenters read no guided denoiser
        used.adopt(config, "refuse")


def test_what_a_stage_needs_stands_before_it():
    assert tuple(NEEDS) == STAGES
    for stage, needs in NEEDS.items():
        assert all(STAGES.index(each) < STAGES.index(stage) for each in needs)


def test_forgetting_a_stage_deletes_what_builds_on_it(used):
    used.forget("ssl")
    assert used.started("diffusion") and used.started("synthesis") and used.result("ssl") is None
    assert (
        not used.started("guided")
        and not used.started("segmentation")
        and not used.started("report")
    )


def test_what_is_only_watched_is_harmless(used):
    config = get_base()
    config.diffusion.watch.update({"layouts": 1, "judge": True})
    assert len(used.adopt(config, "refuse")) == 2


def test_what_is_pending_is_told_without_a_change(used):
    config = get_base()
    before = sorted(str(path) for path in used.path.rglob("*"))
    assert used.pending(config, ("autoencoder", "diffusion")) == [
        stage for stage in ("autoencoder", "diffusion") if used.result(stage) is None
    ]
    config.diffusion.style.drop = 0.5
    assert "diffusion" in used.pending(config, ("autoencoder", "diffusion"))
    assert sorted(str(path) for path in used.path.rglob("*")) == before
