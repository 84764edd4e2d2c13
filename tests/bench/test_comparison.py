"""Contenders are compared only if they compute the same; a peer here is made of numbers alone."""

import pytest

from stedm_jax.bench import comparison
from stedm_jax.bench.ours import Ready
from stedm_jax.bench.results import OURS
from stedm_jax.common.errors import UserError
from tests.bench.sizes import tiny_case


class Peer:
    """Computes `loss`; cannot be compiled."""

    def __init__(self, loss):
        self.loss = loss

    def product(self, side):
        return lambda: None

    def held(self, training):
        return 1000

    def train_step(self, kind):
        if kind == "compile":
            raise RuntimeError("no compiler\nhere")
        return lambda: None, {"loss": self.loss}


def bench(monkeypatch, loss):
    monkeypatch.setattr(comparison, "ceiling", lambda products, side: (1e9, 1e9))
    return comparison.Bench(tiny_case(), lambda params: Peer(loss), ["eager", "compile"], 0.0)


def ready():
    return Ready(lambda: None, images=2, held=500, program=0, flops=1e6, result={"loss": 2.0})


def test_a_peer_runs_beside_ours_and_a_kind_that_fails_is_left_out(monkeypatch, capsys):
    runs = bench(monkeypatch, 2.0002)
    part = runs._part("a step", ready(), "train_step")
    assert [row.name for row in part.rows] == [OURS, "torch eager"]
    assert part.errors == {"loss (torch eager)": pytest.approx(1e-4, rel=1e-3)}
    assert "torch compile is left out, it failed: no compiler" in capsys.readouterr().err
    assert runs.kinds == ["eager"]
    assert [row.name for row in runs._part("alone", ready(), "").rows] == [OURS]


def test_a_peer_that_computes_something_else_is_refused(monkeypatch):
    with pytest.raises(UserError, match="loss .torch eager. differs by 5.0e-01"):
        bench(monkeypatch, 4.0)._part("a step", ready(), "train_step")
