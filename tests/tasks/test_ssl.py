import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import get_base, training
from stedm_jax.common.errors import UserError
from stedm_jax.tasks.recolor import recolor
from stedm_jax.tasks.ssl import SslTask, cosine, dino_loss
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.logging import read_rows
from stedm_jax.training.loop import Loop
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh, replicated, to_global
from stedm_jax.training.task import STATE
from tests.sections import settings_of
from tests.training.toy import same

BATCH, STEPS = 8, 40


def settings():
    whole = get_base()
    config = whole.ssl
    config.model.update({"width": 16, "depth": 1, "heads": 2, "patch": 4})
    config.head.update({"hidden": 16, "bottleneck": 8, "prototypes": 12})
    config.crops.update({"global_size": 8, "local_size": 4, "locals": 2})
    config.augment.update({"stain": 0.05, "colour": 0.05, "grey": 0.0})
    config.update(
        {
            "momentum": 0.999,
            "teacher_temperature": (0.05, 0.05),
            "teacher_warmup": 8,
            "freeze_last": 2,
        }
    )
    config.train = training(
        STEPS,
        BATCH,
        2e-3,
        log_every=1,
        checkpoint_every=8,
        optimizer__warmup=2,
        optimizer__clip=1.0,
        optimizer__schedule="cosine",
        optimizer__weight_decay=0.04,
        optimizer__weight_decay_end=0.4,
    )
    return settings_of(whole).ssl


def batches(start=0):
    """Crops of tiles of eight plain, clearly different colors with a little noise, easy to tell
    apart."""
    color = np.random.default_rng(0).integers(30, 226, (BATCH, 1, 1, 1, 3))

    def noisy(rng, *shape):
        return np.clip(color + rng.normal(0, 5, (BATCH, *shape, 3)), 0, 255).astype(np.uint8)

    for rng in map(np.random.default_rng, itertools.count(start)):
        yield {"global": noisy(rng, 2, 8, 8), "local": noisy(rng, 2, 4, 4)}


@pytest.fixture(scope="module")
def task():
    return SslTask(settings(), jnp.float32)


@pytest.fixture(scope="module")
def one(task):
    return Program(task, task.config.train, make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def whole(one, tmp_path_factory):
    dir = tmp_path_factory.mktemp("whole")
    return dir, Loop(one, batches=batches, workdir=dir, seed=0).train()


@pytest.fixture(scope="module")
def step(task):
    """Of one loss: parameters, the batch, value, what is logged, gradients."""
    params = jax.jit(task.init)(jax.random.key(0))
    params["centre"] = 0.1 * jax.random.normal(jax.random.key(1), params["centre"].shape)
    params["backbone"] = jax.tree.map(lambda leaf: leaf + 0.01, params["backbone"])
    batch = {name: jnp.asarray(array) for name, array in next(batches()).items()}
    grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    return (
        params,
        batch,
        lambda number: grad(params, {}, batch, jax.random.key(2), jnp.int32(number)),
    )


def test_the_loss_is_the_mean_over_pairs_of_different_crops():
    rng = np.random.default_rng(0)
    student, logits = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 2, 5))
    teacher = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    logp = student / 0.1 - np.log(np.exp(student / 0.1).sum(-1, keepdims=True))
    pairs = [(u, v) for u in range(2) for v in range(4) if u != v]
    expected = np.mean([-(teacher[:, u] * logp[:, v]).sum(-1).mean() for u, v in pairs])
    got = dino_loss(jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32), 0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cosine_at_known_points():
    values = [float(cosine(0.9, 1.0, jnp.int32(step), 10)) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(values, [0.9, 0.95, 1.0, 1.0], rtol=1e-6)


def test_teacher_and_center_follow_their_equations(task, step):
    params, batch, at = step
    (_, extra), grads = at(6)
    m = float(cosine(0.999, 1.0, jnp.int32(6), STEPS))
    assert float(extra["teacher_momentum"]) == pytest.approx(m)
    state = extra[STATE]
    assert set(state) == {"backbone", "head", "centre"}
    for name in ("backbone", "head"):
        expected = jax.tree.map(
            lambda t, s: m * t + (1 - m) * s, params[name], params["student"][name]
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state[name], expected
        )
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads[name]))
    assert not np.any(grads["centre"])
    first, _ = jax.random.split(jax.random.key(2))
    views = recolor(first, batch["global"], task.config.augment)
    _, logits = task._views(state, views)
    expected = 0.9 * params["centre"] + 0.1 * logits.reshape(-1, 12).mean(0)
    np.testing.assert_allclose(state["centre"], expected, atol=1e-5)


def test_the_center_begins_as_the_mean_of_the_first_batch(step):
    params, _, at = step
    (_, first), _ = at(0)
    (_, later), _ = at(1)
    begun = first[STATE]["centre"]
    assert np.abs(begun - later[STATE]["centre"]).max() > 1e-3
    # Were the center counted in, it would be (1 - 0.9) of itself and 0.9 of the center before.
    np.testing.assert_allclose(
        later[STATE]["centre"], 0.9 * params["centre"] + 0.1 * begun, atol=1e-3
    )


def test_prototypes_stay_for_the_first_steps_and_all_else_learns(step):
    _, _, at = step
    (_, _), early = at(1)
    (_, _), late = at(2)
    assert not np.any(early["student"]["head"]["last_layer"])
    assert np.any(early["student"]["head"]["mlp"]["0"]["kernel"])
    still = [
        jax.tree_util.keystr(k)
        for k, g in jax.tree_util.tree_leaves_with_path(late["student"])
        if not np.any(g)
    ]
    assert still == []


def test_it_learns_and_nothing_collapses(whole):
    dir, result = whole
    rows = [row for row in read_rows(dir / "metrics.jsonl") if "loss" in row]
    losses = [row["loss"] for row in rows]
    assert len(losses) == STEPS and np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.3
    assert rows[-1]["spread"] > 0.1 and rows[-1]["prototypes"] > 2
    teacher, student = result.state.params["backbone"], result.state.params["student"]["backbone"]
    assert not same(teacher, student)


def test_a_run_that_was_killed_goes_on_bit_for_bit(one, whole, tmp_path):
    def killed(start):
        for number, batch in enumerate(batches(start)):
            if number == 10:
                raise KeyError
            yield batch

    with pytest.raises(KeyError):
        Loop(one, batches=killed, workdir=tmp_path, seed=0).train()
    assert Checkpoints(tmp_path / "checkpoints").latest() == 8
    again = Loop(one, batches=batches, workdir=tmp_path, seed=0).train()
    assert same(again.state, whole[1].state)


@pytest.mark.slow
def test_one_device_equals_eight(task, one, whole, tmp_path):
    """The center is then the mean over the global batch, of which a device holds one tile."""
    many = Program(task, task.config.train, make_mesh(fsdp=2))
    outs = []
    for program in (one, many):
        batch = to_global(next(batches()), program.mesh)
        with jax.set_mesh(program.mesh):
            key = jax.jit(lambda: jax.random.key(3), out_shardings=replicated(program.mesh))()
            state = program.init(5)
            compiled, _ = program.step({}, batch, key)
            for _ in range(3):
                state, metrics = compiled(state, {}, batch, key)
        outs.append((jax.device_get(state.params), float(metrics["loss"])))
    (a, loss_a), (b, loss_b) = outs
    assert loss_a == pytest.approx(loss_b, abs=1e-4)
    np.testing.assert_allclose(a["centre"], b["centre"], atol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-3), a["backbone"], b["backbone"]
    )


def test_evaluation_ignores_padding_and_reports_a_collapse(task, capsys):
    params = jax.jit(task.init)(jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    evaluate = jax.jit(task.eval_step)
    sums = [
        jax.device_get(
            evaluate(params, {}, {"image": jnp.asarray(x), "weight": weight}, jax.random.key(0))
        )
        for x, weight in (
            (image, jnp.array([1.0, 1, 0, 0])),
            (np.concatenate([image[:2]] * 2), jnp.full(4, 0.5)),
        )
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *sums)
    same_tile = np.broadcast_to(image[:1], image.shape)
    seen = evaluate(
        params, {}, {"image": jnp.asarray(same_tile), "weight": jnp.ones(4)}, jax.random.key(0)
    )
    scores = task.summarize({name: np.asarray(value) for name, value in seen.items()})
    assert scores["spread"] < 0.01 and "one embedding" in capsys.readouterr().out


def test_crops_that_the_patches_do_not_divide_are_refused():
    config = settings()
    config = replace(config, crops=replace(config.crops, local_size=6))
    with pytest.raises(UserError, match="local_size=6; both must be multiples of the patch of 4"):
        SslTask(config, jnp.float32)
