import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.conv_encoder import ConvEncoder
from stedm_jax.models.functional import Functional, light_key, on_each_device, param_count
from stedm_jax.models.segmenter import Segmenter
from stedm_jax.models.swin_v2 import SwinV2
from stedm_jax.models.unet import UNet

PAPER = {
    "in_channels": 6,
    "out_channels": 3,
    "base": 128,
    "multipliers": (1, 4, 8),
    "res_blocks": 2,
    "heads": 8,
}


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: ConvEncoder(make, width=4, dim=8))


def test_params_are_a_nested_dict_of_strings_and_float32_arrays(network):
    params = jax.jit(network.init)(jax.random.key(0))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    assert all(isinstance(key.key, str) for path in paths for key in path)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, network.abstract)


def test_init_depends_on_a_key_that_may_be_traced(network):
    init = jax.jit(network.init)
    one, two, again = (init(jax.random.key(seed)) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one["stem"]["kernel"], again["stem"]["kernel"])
    assert not np.allclose(one["stem"]["kernel"], two["stem"]["kernel"])
    assert not np.allclose(
        one["blocks"]["0"]["conv2"]["kernel"][:, :, :4, :4],
        one["blocks"]["1"]["conv2"]["kernel"][:, :, :4, :4],
    )


def test_apply_leaves_the_parameters_alone_and_uses_them(network):
    params = jax.jit(network.init)(jax.random.key(0))
    before = jax.tree.map(np.array, params)
    x = jnp.ones((1, 32, 32, 3))
    apply = jax.jit(network.apply)
    y = apply(params, x)
    zero = apply(jax.tree.map(jnp.zeros_like, params), x)
    jax.tree.map(np.testing.assert_array_equal, before, params)
    assert np.abs(y).max() > 0
    np.testing.assert_array_equal(zero, 0)


def test_missing_parameter_is_an_error(network):
    params = jax.tree.map(lambda leaf: leaf, network.abstract)
    params["stem"] = {"weight": params["stem"]["kernel"]}
    with pytest.raises(ValueError):
        jax.eval_shape(network.apply, params, jnp.ones((1, 32, 32, 3)))


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda make: UNet(make, **PAPER, style_dim=512), 234_635_139),
        (lambda make: UNet(make, **PAPER), 215_229_315),
        (lambda make: SwinV2(make, classes=1000), 28_351_570),
        (lambda make: Segmenter(make, classes=2, encoder="mit_b2"), 27_477_154),
    ],
    ids=["stedm-unet", "unet-without-style", "swin_v2_t", "mit_b2-unet"],
)
def test_published_parameter_counts(build, count):
    assert param_count(Functional(build).abstract) == count


def test_on_each_device_is_a_plain_call_in_value_and_gradient():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    params = {"w": jnp.arange(6.0).reshape(3, 2) / 6}

    def loss(params, x):
        return jnp.square(
            on_each_device(lambda params, x: jnp.tanh(x @ params["w"]), params, x)
        ).sum()

    for count in (8, 3):  # three do not divide over eight devices
        x = jax.random.normal(jax.random.key(count), (count, 3))
        made = jax.value_and_grad(loss, argnums=(0, 1))
        plain = made(params, x)
        with jax.set_mesh(mesh):
            cut, program = jax.jit(made)(params, x), str(jax.make_jaxpr(loss)(params, x))
        assert ("shard_map" in program) == (count == 8)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), cut, plain
        )


def normal(seed: int, count: int = 20_000):
    return np.asarray(jax.random.normal(light_key(jax.random.key(seed)), (count,), jnp.float32))


def test_draws_look_normal_and_do_not_repeat():
    values = normal(0)
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03
    assert len(np.unique(values)) > 19_900
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03


def test_keys_and_their_children_are_independent():
    children = jax.random.split(light_key(jax.random.key(3)), 3)
    draws = [np.asarray(jax.random.normal(k, (5000,), jnp.float32)) for k in children] + [
        normal(3, 5000),
        normal(4, 5000),
    ]
    draws.append(
        np.asarray(
            jax.random.normal(
                jax.random.fold_in(light_key(jax.random.key(3)), 1), (5000,), jnp.float32
            )
        )
    )
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.06


def test_the_same_key_gives_the_same_numbers_under_jit():
    jitted = jax.jit(lambda key: jax.random.uniform(light_key(key), (7,)))(jax.random.key(5))
    np.testing.assert_array_equal(jitted, jax.random.uniform(light_key(jax.random.key(5)), (7,)))
