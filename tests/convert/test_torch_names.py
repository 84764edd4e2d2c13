import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert.torch_names import Rule, from_torch, our_name, to_torch, torch_name
from stedm_jax.models.functional import Functional
from stedm_jax.models.segmenter import Segmenter
from stedm_jax.training.param_paths import named, nested

TABLE = (
    Rule("model.blocks.{n:d}.qkv.weight", "blocks/{n}/qkv/kernel", "conv1d1", ndim=3),
    Rule("model.tokens.weight", "tokens/embedding"),
    Rule("model.{a}.proj.weight", "{a}/proj/kernel", "conv1x1", ndim=4),
    Rule("model.{a}.weight", "{a}/scale", ndim=1),
    Rule("model.{a}.weight", "{a}/kernel", "kernel"),
    Rule("model.{a}", "{a}"),
)
SHAPES = {
    "model.blocks.0.qkv.weight": (6, 2, 1),
    "model.blocks.11.qkv.bias": (6,),
    "model.tokens.weight": (5, 3),
    "model.a.b.proj.weight": (4, 2, 1, 1),
    "model.a.conv.weight": (4, 2, 3, 5),
    "model.a.fc.weight": (4, 2),
    "model.norm.weight": (4,),
    "model.norm.running_mean": (4,),
}
OURS = {
    "blocks/0/qkv/kernel": (2, 6),
    "blocks/11/qkv/bias": (6,),
    "tokens/embedding": (5, 3),
    "a/b/proj/kernel": (2, 4),
    "a/conv/kernel": (3, 5, 2, 4),
    "a/fc/kernel": (2, 4),
    "norm/scale": (4,),
    "norm/running_mean": (4,),
}
ABSTRACT = nested({path: np.zeros(shape, np.float32) for path, shape in OURS.items()})


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_names_go_both_ways() -> None:
    for (name, shape), (path, own) in zip(SHAPES.items(), OURS.items(), strict=True):
        assert our_name(name, len(shape), TABLE)[0] == path
        assert torch_name(path, len(own), TABLE)[0] == name


def test_round_trip_is_exact_and_layouts_are_right() -> None:
    given = tensors()
    ours = from_torch(given, ABSTRACT, TABLE)
    assert {path: leaf.shape for path, leaf in named(ours).items()} == OURS
    np.testing.assert_array_equal(
        ours["a"]["conv"]["kernel"][1, 4, 0, 3], given["model.a.conv.weight"][3, 0, 1, 4]
    )
    np.testing.assert_array_equal(ours["a"]["fc"]["kernel"], given["model.a.fc.weight"].T)
    back = to_torch(ours, TABLE)
    assert back.keys() == given.keys()
    assert all(np.array_equal(back[name], given[name]) for name in given)


def test_every_wrong_name_is_listed_in_one_error() -> None:
    given = tensors()
    del given["model.norm.weight"], given["model.a.fc.weight"]
    given["model.a.conv.weight"] = given["model.a.conv.weight"][:2]
    given |= {"extra.one": np.zeros(1, np.float32), "extra.two": np.zeros(1, np.float32)}
    with pytest.raises(UserError) as caught:
        from_torch(given, ABSTRACT, TABLE)
    text = str(caught.value)
    for part in (
        "2 missing: model.a.fc.weight, model.norm.weight",
        "2 unexpected: extra.one, extra.two",
    ):
        assert part in text
    assert "1 of another shape: model.a.conv.weight (2, 2, 3, 5), needed (4, 2, 3, 5)" in text


def test_a_part_is_loaded_only_when_asked_for() -> None:
    given = {name: array for name, array in tensors().items() if name.startswith("model.a.")}
    with pytest.raises(UserError, match="missing"):
        from_torch(given, ABSTRACT, TABLE)
    part = from_torch(given, ABSTRACT, TABLE, load_only=["^a/"])
    assert set(named(part)) == {"a/b/proj/kernel", "a/conv/kernel", "a/fc/kernel"}
    with pytest.raises(UserError, match="1 missing"):
        from_torch(given, ABSTRACT, TABLE, load_only=["^a/", "^tokens/"])
    with pytest.raises(UserError, match="fits no parameter"):
        from_torch(given, ABSTRACT, TABLE, load_only=["^nothing"])
    assert from_torch(
        tensors() | {"optimizer.x": np.zeros(1)}, ABSTRACT, TABLE, ignore=["^optimizer"]
    )


def test_a_whole_network_by_the_usual_rules() -> None:
    small = {
        "encoder": "mit",
        "widths": (8, 16),
        "depths": (1, 1),
        "heads": (1, 2),
        "reductions": (2, 1),
        "decoder": (16, 8, 8),
    }
    network = Functional(lambda make: Segmenter(make, classes=2, **small))
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=leaf.shape).astype(leaf.dtype)
        for path, leaf in named(network.abstract).items()
    }
    back = named(from_torch(to_torch(nested(params)), network.abstract))
    assert back.keys() == params.keys()
    assert all(np.array_equal(back[path], params[path]) for path in params)
    assert jnp.float32 == back[next(iter(back))].dtype


def test_a_larger_network_is_not_taken_for_a_smaller_one() -> None:
    """With load_only too: its further blocks would vanish without a word."""
    given = tensors() | {"model.blocks.12.qkv.bias": np.zeros(6, np.float32)}
    with pytest.raises(UserError, match="1 unexpected: model.blocks.12.qkv.bias"):
        from_torch(given, ABSTRACT, TABLE, load_only=["^blocks/", "^a/"])
    assert from_torch(given, ABSTRACT, TABLE, load_only=["^a/"], leave_unknown=True)
