import jax
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.evaluate import Evaluator
from stedm_jax.training.sharding import make_mesh
from tests.training import toy


def scores(evaluator, params, batches):
    sums = evaluator.sums(params, {}, batches, 0)
    assert sums is not None
    return evaluator.scores(sums)


def test_padded_entries_count_nothing() -> None:
    task, params = toy.ToyTask(), toy.ToyTask().init(jax.random.key(0))
    data = toy.batch_at(5, 21)
    pieces = [{k: v[i : i + 8] for k, v in data.items()} for i in (0, 8, 16)]
    scored = lambda mesh, batches: scores(Evaluator(task, mesh), params, batches)  # noqa: E731
    padded = scored(make_mesh(), [toy.pad_batch(p, 8) for p in pieces])
    # Padding with anything at all, not only zeros:
    rubbish = toy.pad_batch(pieces[-1], 8)
    rubbish["x"][5:] = 1e3
    other = scored(make_mesh(), [*(toy.pad_batch(p, 8) for p in pieces[:2]), rubbish])
    whole = scored(make_mesh(devices=jax.devices()[:1]), [toy.pad_batch(data, 21)])
    assert padded == other
    assert padded["error"] == pytest.approx(whole["error"], rel=1e-6)


def test_sums_are_added_in_64_bits() -> None:
    class Counting(toy.ToyTask):
        def eval_step(self, params, frozen, batch, key):
            return {"count": batch["count"][0], "sum": batch["sum"][0]}

        def summarize(self, sums):
            assert sums["count"].dtype == np.int64 and sums["sum"].dtype == np.float64
            return {"count": float(sums["count"]), "sum": float(sums["sum"])}

    batch = {"count": np.full(8, 2**30, np.int32), "sum": np.full(8, 2**24 + 2, np.float32)}
    batches = [batch] * 5 + [{**batch, "sum": np.ones(8, np.float32)}]
    assert scores(Evaluator(Counting(), make_mesh()), {}, batches) == {
        "count": 6 * 2**30,
        "sum": 5 * (2**24 + 2) + 1,
    }


def test_no_batch_is_a_user_error_and_stop_is_heard() -> None:
    evaluator = Evaluator(toy.ToyTask(), make_mesh())
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluator.sums({}, {}, [], 0)
    assert evaluator.sums({}, {}, toy.eval_batches(), 0, stop=lambda: True) is None
    sums = evaluator.sums(toy.ToyTask().init(jax.random.key(0)), None, toy.eval_batches(), 0)
    assert sums is not None and sums["count"] == 11
