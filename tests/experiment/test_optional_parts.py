"""Parts of the parameters that weights to start from may lack, or hold without need (a
discriminator)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.init_weights import initial_params
from stedm_jax.tasks.autoencoder import DISCRIMINATOR, AutoencoderTask
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from tests.training import toy
from tests.weights import save_folder

JUDGE = {
    "one": {"kernel": np.full((2, 2), 3.0, np.float32)},
    "two": {"kernel": np.full(2, 4.0, np.float32)},
}


class Plain(toy.ToyTask):
    optional = ("judge",)


class Adversarial(Plain):
    def init(self, key):
        fresh = jax.tree.map(lambda x: jax.random.normal(key, x.shape), JUDGE)
        return super().init(key) | {"judge": fresh}


@pytest.fixture
def started(tmp_path):
    """Starts a task from parameters in a converted folder."""

    def start(task, given):
        program = Program(task, toy.settings(), make_mesh(devices=jax.devices()[:1]))
        save_folder(tmp_path / "given", jax.tree.map(np.asarray, given), {"name": "made"})
        return initial_params(program, (str(tmp_path / "given"),), False, 5)

    return start


def test_a_discriminator_that_is_not_given_starts_fresh(started, capsys):
    given = toy.ToyTask().init(jax.random.key(1))
    params = started(Adversarial(), given)
    assert toy.same({name: params[name] for name in given}, given)
    assert (
        params["judge"].keys() == JUDGE.keys()
        and float(jnp.std(params["judge"]["one"]["kernel"])) > 0
    )
    assert "2 start fresh (judge/one, judge/two)" in capsys.readouterr().out


def test_a_discriminator_that_is_not_needed_is_left_out(started, capsys):
    given = toy.ToyTask().init(jax.random.key(1))
    assert toy.same(started(Plain(), given | {"judge": JUDGE}), given)
    assert "2 left out (judge/one, judge/two)" in capsys.readouterr().out


def test_one_that_both_have_is_taken_over(started):
    given = toy.ToyTask().init(jax.random.key(1)) | {"judge": jax.tree.map(jnp.asarray, JUDGE)}
    assert toy.same(started(Adversarial(), given), given)


def test_all_else_has_to_fit(started):
    given = toy.ToyTask().init(jax.random.key(1))
    half = {"judge": {"one": JUDGE["one"], "three": JUDGE["two"]}}
    with pytest.raises(
        UserError, match="1 missing: judge/two/kernel; 1 unknown: judge/three/kernel.*init_partial"
    ):
        started(Adversarial(), given | half)
    with pytest.raises(UserError, match="2 missing: out/bias, out/kernel"):
        started(Adversarial(), {"hidden": given["hidden"]})
    with pytest.raises(UserError, match="4 unknown: .*strange"):
        started(Plain(), given | {"strange": toy.ToyTask().init(jax.random.key(1))})
    with pytest.raises(UserError, match="missing"):
        started(Adversarial(), {"judge": JUDGE})


def test_the_autoencoder_calls_its_discriminator_so():
    assert AutoencoderTask.optional == (DISCRIMINATOR,)
