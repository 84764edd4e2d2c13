"""Parameters that stay as they are, and those that learn faster or slower."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.param_paths import choose, merged, named, nested, split
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from tests.training import toy
from tests.training.test_loop import Counting

TREE = {"a": {"w": 1, "b": 2}, "c": {"d": {"w": 3}}, "e": 4}


def test_trees_are_taken_apart_and_put_together() -> None:
    assert named(TREE) == {"a/w": 1, "a/b": 2, "c/d/w": 3, "e": 4}
    rest, those = split(TREE, {"a/w", "c/d/w"})
    assert rest == {"a": {"b": 2}, "e": 4} and those == {"a": {"w": 1}, "c": {"d": {"w": 3}}}
    assert merged(rest, those) == merged(those, rest) == TREE and merged(TREE, {}) is TREE
    assert nested(named(TREE)) == TREE


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ("unet/inputs/.*",),
            r"'unet/inputs/\.\*', which fits none.*nearest are.*unet/input_blocks.*begin with st",
        ),
        (("unet",), "fits none"),  # a path has to be fitted as a whole
        (("style/(",), "no regular expression"),
        (
            ("style/.*", "style/w"),
            r"'style/w', but all that it fits is fitted by style/\.\* before it",
        ),
    ],
)
def test_what_fits_nothing_is_refused(patterns, message) -> None:
    with pytest.raises(UserError, match=message):
        choose(
            patterns, ["unet/input_blocks/0/w", "unet/out/w", "style/w"], "freeze", "the parameters"
        )


def program(task=None, devices=1, fsdp=1, groups=(), **changes) -> Program:
    settings = toy.settings(optimizer={"groups": groups}, **changes)
    return Program(
        task or toy.ToyTask(), settings, make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    )


def size(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_what_stays_has_no_gradient_no_state_and_no_average(tmp_path, capsys) -> None:
    config = toy.settings(freeze=("hidden/.*",), steps=4)
    start = toy.ToyTask().init(jax.random.key(9))
    result = toy.run(
        tmp_path, config=config, init_params=lambda: start, eval_batches=toy.eval_batches
    )
    state = result.state
    assert toy.same(state.all_params["hidden"], start["hidden"]) and not toy.same(
        state.params["out"], start["out"]
    )
    assert set(state.params) == set(state.ema) == {"out"} and set(state.weights) == {
        "hidden",
        "out",
    }
    trained = size(start["out"])
    assert trained <= size(state.opt_state) <= 2 * trained + 64 and size(state.ema) == trained
    out = capsys.readouterr().out
    assert "4,609 parameters" in out
    assert "freeze hidden/.*: 4,352 parameters in 2 arrays stay as they are" in out
    # Whole weights come back, with and without shapes being known.
    store = Checkpoints(tmp_path / "checkpoints")
    for which, own in (("ema", state.ema), ("params", state.params)):
        wanted = {"hidden": start["hidden"], "out": own["out"]}
        assert toy.same(store.read_params(4, which), wanted)
        assert toy.same(store.restore_params(jax.eval_shape(lambda: start), 4, which), wanted)
    # What was saved without is not taken for what needs it, and the other way round.
    for other in ((), ("out/.*",)):
        with pytest.raises(UserError, match="does not fit"):
            store.restore(program(freeze=other).state)


def test_the_gradient_of_what_stays_is_not_computed() -> None:
    flops = []
    for freeze in ((), ("hidden/.*",)):
        made = program(freeze=freeze)
        batch = jax.tree.map(jnp.asarray, toy.batch_at(0))
        key = jax.random.key(0)
        with jax.set_mesh(made.mesh):
            flops.append((made.trace({}, batch, key).lower().cost_analysis() or {})["flops"])
    # Of the two products of the hidden layer in a step, forward and for its kernel, one is gone,
    # and its optimizer.
    assert flops[1] < flops[0] - 2 * toy.BATCH * toy.FEATURES * toy.HIDDEN


def test_running_statistics_that_stay_stay(tmp_path) -> None:
    frozen = toy.run(
        tmp_path, task=Counting(), config=toy.settings(steps=2, freeze=("running/.*",))
    ).state
    assert not np.any(frozen.all_params["running"]["step"]) and not np.any(
        frozen.all_params["running"]["mean"]
    )


def test_a_factor_multiplies_the_update_of_its_group_alone() -> None:
    made = [program(groups=groups) for groups in ((), (("out/kernel", 10.0), ("out/.*", 0.5)))]
    state = made[0].init(1)
    grads = jax.tree.map(jnp.ones_like, state.params)
    update = lambda each: jax.jit(lambda p: each.tx.update(grads, each.tx.init(p), p))(state.params)  # noqa: E731
    (plain, one), (factored, two) = map(update, made)
    assert toy.same(optax.tree.get(one, "mu"), optax.tree.get(two, "mu"))
    for name, factor in {
        "hidden/kernel": 1.0,
        "hidden/bias": 1.0,
        "out/kernel": 10.0,
        "out/bias": 0.5,
    }.items():
        np.testing.assert_allclose(named(factored)[name], factor * named(plain)[name], rtol=1e-6)
    assert made[1].notes == [
        "group out/kernel: 256 parameters in 1 arrays at 10 x the learning rate",
        "group out/.*: 1 parameters in 1 arrays at 0.5 x the learning rate",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": (".*",)}, "leaves none"),
        ({"freeze": ("hiden/.*",)}, "nearest are hidden"),
        (
            {"groups": (("out/.*", 2.0),), "freeze": ("out/.*",)},
            "none of the parameters that are trained",
        ),
    ],
)
def test_bad_choices_are_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        program(**changes)
