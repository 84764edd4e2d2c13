import jax
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.evaluate import Evaluator
from stedm_jax.training.sharding import make_mesh, pad_batch
from tests.training import toy


def test_padded_entries_count_nothing() -> None:
    task, params = toy.ToyTask(), toy.ToyTask().init(jax.random.key(0))
    data = toy.batch_at(5, 21)
    pieces = [{k: v[i : i + 8] for k, v in data.items()} for i in (0, 8, 16)]
    padded = Evaluator(task, make_mesh())(params, {}, [pad_batch(p, 8) for p in pieces], 0)
    # Padding with anything at all, not only zeros:
    rubbish = pad_batch(pieces[-1], 8)
    rubbish["x"][5:] = 1e3
    other = Evaluator(task, make_mesh())(
        params, {}, [*(pad_batch(p, 8) for p in pieces[:2]), rubbish], 0
    )
    one = make_mesh(devices=jax.devices()[:1])
    whole = Evaluator(task, one)(params, {}, [pad_batch(data, 21)], 0)
    assert padded == other
    assert padded is not None and whole is not None
    assert padded["error"] == pytest.approx(whole["error"], rel=1e-6)


def test_sums_are_added_in_64_bits() -> None:
    class Counting(toy.ToyTask):
        def eval_step(self, params, frozen, batch, key):
            return {"count": batch["count"][0], "sum": batch["sum"][0]}

        def summarise(self, sums):
            assert sums["count"].dtype == np.int64 and sums["sum"].dtype == np.float64
            return {"count": float(sums["count"]), "sum": float(sums["sum"])}

    batch = {"count": np.full(8, 2**30, np.int32), "sum": np.full(8, 2**24 + 2, np.float32)}
    scores = Evaluator(Counting(), make_mesh())(
        {}, {}, [batch] * 5 + [{**batch, "sum": np.ones(8, np.float32)}], 0
    )
    assert scores == {"count": 6 * 2**30, "sum": 5 * (2**24 + 2) + 1}


def test_no_batch_is_a_user_error_and_stop_is_heard() -> None:
    evaluator = Evaluator(toy.ToyTask(), make_mesh())
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluator({}, {}, [], 0)
    assert evaluator({}, {}, toy.eval_batches(), 0, stop=lambda: True) is None
    sums = evaluator.sums(toy.ToyTask().init(jax.random.key(0)), None, toy.eval_batches(), 0)
    assert sums is not None and sums["count"] == 11
