import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.figures import sampled_names
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.logging import read_rows
from stedm_jax.training.loop import Loop
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from stedm_jax.training.step import TrainingDiverged
from tests.training import toy


class Killed(Exception):
    pass


def stops_after(count: int):
    """Batches that break the run once `count` were given, as a crash would."""

    def batches(start: int):
        for number, batch in enumerate(toy.batches(start)):
            if number == count:
                raise Killed
            yield batch

    return batches


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    dir = tmp_path_factory.mktemp("whole")
    return dir, toy.run(dir, eval_batches=toy.eval_batches)


@pytest.mark.parametrize("killed_after", [5, 8])
def test_ten_steps_equal_five_and_five_bit_for_bit(tmp_path, whole, killed_after) -> None:
    _, whole = whole
    with pytest.raises(Killed):
        toy.run(tmp_path, batches=stops_after(killed_after), eval_batches=toy.eval_batches)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 5
    again = toy.run(tmp_path, eval_batches=toy.eval_batches)
    assert toy.same(again.state, whole.state)
    assert again.metrics == whole.metrics
    steps = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, 11))


def test_seed_and_data_matter(tmp_path, whole) -> None:
    assert not toy.same(toy.run(tmp_path, seed=4).state, whole[1].state)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_one_device_equals_eight(tmp_path, whole, fsdp) -> None:
    _, whole = whole
    many = toy.run(tmp_path, devices=8, fsdp=fsdp, eval_batches=toy.eval_batches)
    kernel = many.state.params["hidden"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert kernel.addressable_shards[0].data.shape == (toy.FEATURES, toy.HIDDEN // fsdp)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), many.state, whole.state)
    assert many.metrics["error"] == pytest.approx(whole.metrics["error"], abs=1e-5)


def test_it_learns_and_the_average_follows(tmp_path) -> None:
    result = toy.run(
        tmp_path, config=toy.settings(steps=150, checkpoint_every=0), eval_batches=toy.eval_batches
    )
    losses = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl") if "loss" in row]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert toy.same(result.state.weights, result.state.ema) and not toy.same(
        result.state.ema, result.state.params
    )


def test_without_an_average_the_parameters_are_the_weights(tmp_path) -> None:
    config = toy.settings(ema=dict(decay=0.0, tracks=(), snapshot_every=0), steps=2)
    result = toy.run(tmp_path, config=config)
    assert result.state.ema == {} and result.state.weights is result.state.params
    assert toy.same(toy.run(tmp_path, config=config).state, result.state)


def test_a_finished_run_returns_at_once_and_compiles_nothing(whole, monkeypatch, capsys) -> None:
    dir, first = whole
    monkeypatch.setattr(
        "stedm_jax.training.program.Program.step", lambda *_: pytest.fail("compiled")
    )
    began = time.perf_counter()
    assert first.sums is not None and toy.ToyTask().summarize(first.sums) == first.metrics
    again = toy.run(
        dir, eval_batches=lambda: pytest.fail("evaluated"), batches=lambda _: pytest.fail("read")
    )
    assert again.sums is None
    assert time.perf_counter() - began < 2 and "was done before: step 10" in capsys.readouterr().out
    assert (
        toy.same(again.state, first.state)
        and again.metrics == first.metrics
        and again.best_step == 10
    )


def test_frozen_parameters_are_used_and_starting_weights_are_not_consumed(tmp_path) -> None:
    params = toy.ToyTask().init(jax.random.key(9))
    frozen = {"scale": jnp.full((1,), 0.5)}
    one = toy.run(
        tmp_path / "a", init_params=lambda: params, frozen=frozen, config=toy.settings(steps=2)
    )
    two = toy.run(tmp_path / "b", init_params=lambda: params, config=toy.settings(steps=2))
    assert not toy.same(one.state.params, two.state.params)
    assert not params["hidden"]["kernel"].is_deleted()
    with pytest.raises(UserError, match=r"hidden.*kernel"):
        bad = {**params, "hidden": {"kernel": jnp.zeros((3, 3)), "bias": params["hidden"]["bias"]}}
        toy.run(tmp_path / "c", init_params=lambda: bad)


class Exploding(toy.ToyTask):
    def loss(
        self, params: Any, frozen: Any, batch: dict[str, jax.Array], key: jax.Array, step: Any
    ) -> Any:
        loss, extra = super().loss(params, frozen, {k: batch[k] for k in ("x", "y")}, key, step)
        return loss + batch["bad"].sum(), extra


@pytest.mark.parametrize("at", [6, 7])
def test_nan_stops_and_the_last_good_checkpoint_stays(tmp_path, at) -> None:
    def batches(start: int):
        for step, batch in enumerate(toy.batches(start), start + 1):
            yield {**batch, "bad": np.full(toy.BATCH, np.nan if step == at else 0, np.float32)}

    with pytest.raises(
        TrainingDiverged, match=f"step {at}.*step {4 if at <= 6 else 6} is kept"
    ) as caught:
        toy.run(
            tmp_path, task=Exploding(), config=toy.settings(checkpoint_every=2), batches=batches
        )
    assert caught.value.step == at and caught.value.metric == "loss"
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == (4 if at <= 6 else 6)
    kernel = toy.ToyTask().init(jax.random.key(0))
    loaded = checkpoints.restore_params(jax.eval_shape(lambda: kernel))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))


def spoiled(*bad: int, value: float = np.nan):
    def batches(start: int):
        for step, batch in enumerate(toy.batches(start), start + 1):
            yield {**batch, "bad": np.full(toy.BATCH, value if step in bad else 0, np.float32)}

    return batches


def test_a_bad_batch_is_left_out_up_to_a_limit(tmp_path, capsys) -> None:
    config = toy.settings(skip_bad=2, checkpoint_every=2, log_every=2)
    with pytest.raises(TrainingDiverged, match=r"step 9, after 2 step\(s\) that were left out"):
        toy.run(
            tmp_path / "a", task=Exploding(), config=config, batches=spoiled(4, 7, 9), devices=8
        )
    out = capsys.readouterr().out
    assert "step 4 is left out: loss is nan (1 of at most 2)" in out and "step 7 is left out" in out
    assert Checkpoints(tmp_path / "a" / "checkpoints").latest() == 8
    # The count goes on where it stood; a kill between changes nothing.
    with pytest.raises(TrainingDiverged, match="after 2 step"):
        toy.run(tmp_path / "a", task=Exploding(), config=config, batches=spoiled(4, 7, 9))
    whole = toy.run(tmp_path / "b", task=Exploding(), config=config, batches=spoiled(4, 7))
    assert "2 step(s) left out" in capsys.readouterr().out
    again = toy.run(tmp_path / "a", task=Exploding(), config=config, batches=spoiled(4, 7))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), again.state, whole.state
    )
    rows = read_rows(tmp_path / "a" / "metrics.jsonl")
    assert [row["step"] for row in rows if "skipped" in row] == [4, 7]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10] and all(
        row["loss"] > 0 for row in rows if "loss" in row
    )


@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_step_left_out_changes_nothing_but_the_count(tmp_path, value) -> None:
    config = toy.settings(steps=3, skip_bad=1, checkpoint_every=1, keep=9)
    toy.run(tmp_path, task=Exploding(), config=config, batches=spoiled(3, value=value))
    store, program = (
        Checkpoints(tmp_path / "checkpoints"),
        Program(toy.ToyTask(), config, make_mesh()),
    )
    before, after = (store.restore(program.state, step) for step in (2, 3))
    assert before.step == 2 and after.step == 3
    assert toy.same(
        (before.params, before.ema, before.opt_state), (after.params, after.ema, after.opt_state)
    )
    # With nothing bad the masked step computes what the plain one does.
    masked = toy.run(tmp_path / "a", task=Exploding(), config=config, batches=spoiled())
    plain = toy.run(
        tmp_path / "b", task=Exploding(), config=toy.settings(steps=3), batches=spoiled()
    )
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, atol=1e-6), masked.state, plain.state
    )


def test_some_steps_are_profiled(tmp_path) -> None:
    toy.run(tmp_path, config=toy.settings(steps=4, profile=(2, 3)))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_best_is_kept_pictures_are_drawn_and_evaluations_logged(tmp_path) -> None:
    config = toy.settings(steps=8, eval_every=2, checkpoint_every=0, keep=1, visual_every=4)
    asked = []
    visual = lambda: asked.append(0) or toy.batch_at(0)  # noqa: E731
    seen = {
        "config": config,
        "eval_batches": toy.eval_batches,
        "best": ("error", "max"),
        "visual": visual,
    }
    seen["labels"] = lambda: asked.append(1) or {"errors": (("upper", "lower"), ())}
    result = toy.run(tmp_path, **seen)
    toy.run(tmp_path, **seen)  # has nothing to draw
    assert sorted(asked) == [0, 1]
    rows = {
        r["step"]: r["eval/error"]
        for r in read_rows(tmp_path / "metrics.jsonl")
        if "eval/error" in r
    }
    assert list(rows) == [2, 4, 6, 8]
    assert result.best_step == max(rows, key=lambda step: rows[step])
    assert {result.best_step, 8} == set(Checkpoints(tmp_path / "checkpoints").steps())
    assert sampled_names({"toy": read_rows(tmp_path / "metrics.jsonl")}) == ["largest_error"]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [
        "errors-00000004.png",
        "errors-00000008.png",
    ]
    with Image.open(tmp_path / "images" / "errors-00000008.png") as picture:
        assert picture.height == toy.BATCH and picture.width > 4 + 20  # names beside it


def test_data_that_end_and_batches_of_another_size_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="ended at step 3"):
        toy.run(
            tmp_path / "a", batches=lambda start: iter([toy.batch_at(i) for i in range(start, 3)])
        )
    with pytest.raises(UserError, match="global batch is 8"):
        toy.run(tmp_path / "b", batches=lambda _: iter([toy.batch_at(0, 4)]))
    with pytest.raises(UserError, match="nearest valid: 8 or 16"):
        toy.run(tmp_path / "c", devices=8, config=toy.settings(batch=10))


def test_seeds_share_one_compilation_and_differ(tmp_path, capsys) -> None:
    program = Program(toy.ToyTask(), toy.settings(), make_mesh(devices=jax.devices()[:1]))
    one, two = (
        Loop(program, batches=toy.batches, workdir=tmp_path / str(s), seed=s).train().state
        for s in (3, 4)
    )
    assert capsys.readouterr().out.count("compiled in") == 1
    assert not toy.same(one.params, two.params)
    assert toy.same(one, toy.run(tmp_path / "alone").state)


class Counting(toy.ToyTask):
    """Keeps a running mean beside what is learned, and the step that it was given."""

    def init(self, key: jax.Array) -> Any:
        return {**super().init(key), "running": {"mean": jnp.zeros(1), "step": jnp.zeros(1)}}

    def loss(
        self, params: Any, frozen: Any, batch: dict[str, jax.Array], key: jax.Array, step: Any
    ) -> Any:
        loss, extra = super().loss(params, frozen, batch, key, step)
        running = {
            "mean": params["running"]["mean"] + batch["x"].mean(),
            "step": jnp.full(1, step, jnp.float32),
        }
        return loss, {**extra, "state": {"running": running}}


def test_a_state_is_replaced_and_not_trained(tmp_path) -> None:
    result = toy.run(
        tmp_path, task=Counting(), config=toy.settings(steps=4, checkpoint_every=0), devices=8
    )
    means = sum(toy.batch_at(step)["x"].mean() for step in range(4))
    np.testing.assert_allclose(result.state.params["running"]["mean"], [means], rtol=1e-5)
    assert result.state.params["running"]["step"] == 3
    assert "state" not in read_rows(tmp_path / "metrics.jsonl")[-1]


def test_no_steps_keep_the_weights_given_and_score_them(tmp_path) -> None:
    params = toy.ToyTask().init(jax.random.key(9))
    config, no = toy.settings(steps=0), lambda _: pytest.fail("read")
    for _ in range(2):
        kept = toy.run(
            tmp_path,
            config=config,
            init_params=lambda: params,
            eval_batches=toy.eval_batches,
            batches=no,
        )
        assert toy.same(kept.state.params, params) and kept.state.step == 0
        assert set(kept.metrics) == {"error"}


def test_weights_to_start_from_are_taken_where_no_sound_checkpoint_is_left(tmp_path) -> None:
    """As after a kill before the first manifest: the folder of a step is there, and says
    nothing."""
    params = toy.ToyTask().init(jax.random.key(9))
    config, no = toy.settings(steps=0), lambda _: pytest.fail("read")
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    kept = toy.run(tmp_path, config=config, init_params=lambda: params, batches=no)
    assert toy.same(kept.state.params, params)
    again = toy.run(tmp_path, config=config, init_params=lambda: pytest.fail("asked"), batches=no)
    assert toy.same(again.state.params, params)


def test_more_steps_than_planned_end_as_if_so_many_had_been_planned(tmp_path) -> None:
    toy.run(tmp_path / "a", config=toy.settings(steps=4))
    longer = toy.settings(steps=10)
    assert toy.same(
        toy.run(tmp_path / "a", config=longer).state, toy.run(tmp_path / "b", config=longer).state
    )
