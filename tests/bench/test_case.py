import jax
import numpy as np
import pytest

from configs.catch import get_config
from stedm_jax.bench.case import make_case, random_params
from stedm_jax.common.errors import UserError
from stedm_jax.models.functional import param_count
from stedm_jax.settings.load import read_settings
from tests.bench.sizes import tiny, tiny_case


def test_full_size_is_that_of_the_config():
    case = make_case(read_settings(get_config()), 0, "", "cpu")
    assert param_count(case.unet.abstract) == 234_635_139
    assert case.inputs(1)["x"].shape == (1, 128, 128, 6)
    assert (case.style_dim, case.settings.dtype) == (512, "float32")
    assert case.batch == case.mesh.size == 1


def test_a_config_without_style_has_none():
    case = make_case(tiny("semantic"), 2, "bfloat16", "cpu")
    assert case.style_dim == 0 and "style" not in case.inputs(1)
    assert case.settings.dtype == "bfloat16"


def test_inputs_and_parameters_are_the_same_each_time_and_nothing_is_zero():
    case = tiny_case()
    assert all(
        np.array_equal(case.inputs(2)[name], array) for name, array in case.inputs(2).items()
    )
    first, again = (random_params(case.unet.abstract) for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert all(
        np.abs(leaf).max() > 0 and leaf.dtype == np.float32 for leaf in jax.tree.leaves(first)
    )


@pytest.mark.parametrize(
    ("changes", "message"), [({"device": "tpu"}, "--device=tpu"), ({"batch": 9}, "batch of 9")]
)
def test_what_cannot_be_is_refused(changes, message):
    settings = tiny(change=lambda config: config.mesh.update(cpu_devices=2))
    with pytest.raises(UserError, match=message):
        make_case(settings, **({"batch": 2, "dtype": "", "device": "cpu"} | changes))


def test_style_tokens_are_refused():
    def change(config):
        config.diffusion.unet.style_path, config.diffusion.style.aggregation = "cross", "tokens"

    with pytest.raises(UserError, match="style_path"):
        _ = tiny_case(change=change).unet
