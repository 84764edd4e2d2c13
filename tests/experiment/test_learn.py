"""Which weights a later stage gets of what was learnt."""

from typing import Any

import jax
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.ema import main
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learn import restore
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.root import Settings
from stedm_jax.training.param_paths import named
from stedm_jax.training.sharding import make_mesh
from tests.training import toy


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with a trained stage, and the state it ended in."""
    path = tmp_path_factory.mktemp("run")
    ema = dict(decay=0.9, tracks=(0.05, 0.10), snapshot_every=2)
    state = toy.run(path / "toy", config=toy.settings(ema=ema, freeze=("hidden/bias",))).state
    return Context(Settings(), Workdir(path), make_mesh(fsdp=4)), jax.device_get(state)


def test_the_last_weights_their_averages_and_combinations_of_them(learnt, tmp_path) -> None:
    run, state = learnt
    task, origins = toy.ToyTask(), {}
    for which, wanted in (
        ("ema", state.weights),
        ("params", state.all_params),
        ("ema:0.05", None),
        ("ema:0.08", None),
    ):
        params, origins[which] = restore(run, task, "toy", which=which)
        assert (
            len(params["hidden"]["kernel"].sharding.device_set) == 8
            and origins[which]["checkpoint_step"] == "10"
        )
        assert wanted is None or toy.same(jax.device_get(params), wanted)
        if which == "ema:0.05":
            np.testing.assert_allclose(
                params["out"]["kernel"], state.tracks["0.05"]["out"]["kernel"], rtol=1e-6
            )
            assert toy.same(params["hidden"]["bias"], state.still["hidden"]["bias"])
    assert (
        len({each["checkpoint_sha256"] for each in origins.values()}) == 3
    )  # of the checkpoint, and of two combinations
    folder = tmp_path / "made"
    main([str(run.workdir.path / "toy"), "--sigma_rel=0.08", f"--out={folder}"])
    again, origin = restore(run, task, "toy", which=str(folder))
    assert (
        toy.same(jax.device_get(again), jax.device_get(params))
        and len(origin["checkpoint_sha256"]) == 64
    )
    assert set(named(again)) == set(named(state.all_params))


def test_a_stage_without_snapshots_is_named(tmp_path) -> None:
    run = Context(Settings(), Workdir(tmp_path), make_mesh())
    with pytest.raises(UserError, match=r"toy has no snapshots.*snapshot_every"):
        restore(run, toy.ToyTask(), "toy", which="ema:0.07")
