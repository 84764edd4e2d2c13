"""Contenders are compared only if they compute the same; a peer here is made of numbers alone."""

import importlib.util

import pytest

from stedm_jax.bench import own_speed
from stedm_jax.bench.ours import Ready
from stedm_jax.bench.results import OURS, row_of
from stedm_jax.bench.timing import Times
from stedm_jax.common.errors import UserError
from tests.bench import compare
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
    monkeypatch.setattr(own_speed, "ceiling", lambda products, side: (1e9, 1e9))
    return compare.Comparison(tiny_case(), Peer(loss), ["eager", "compile"], 0.0)


def ready():
    return Ready(lambda: None, images=2, held=500, program=0, flops=1e6, result={"loss": 2.0})


def test_a_peer_runs_beside_ours_and_a_kind_that_fails_is_left_out(monkeypatch, capsys):
    runs = bench(monkeypatch, 2.0002)
    part = runs.compare("a step", ready(), "train_step")
    assert [row.name for row in part.rows] == [OURS, "torch eager"]
    assert part.errors == {"loss (torch eager)": pytest.approx(1e-4, rel=1e-3)}
    assert "torch compile is left out, it failed: no compiler" in capsys.readouterr().err
    assert runs.kinds == ["eager"]


def test_a_peer_that_computes_something_else_is_refused(monkeypatch):
    with pytest.raises(UserError, match="loss .torch eager. differs by 5.0e-01"):
        bench(monkeypatch, 4.0).compare("a step", ready(), "train_step")


def part(cpu_ceiling=50.0, most=3):
    reached = (100.0, cpu_ceiling)
    rows = [
        row_of(OURS, Times([2.0, 3.0], [4.0, 5.0]), 8, 100.0, reached, 5e9),
        row_of("torch eager", Times([3.0, 9.0], [5.0, 6.0]), 8, 100.0, reached, None),
        row_of("torch compile", Times([1.5, 1.6], [7.0, 6.0]), 8, 100.0, reached, 1e9),
    ]
    return compare.Compared("a step", rows[:most], 100.0, errors={"loss": 1e-6})


def test_ratio_is_against_the_fastest_peer():
    assert part().ratio == pytest.approx(0.75)
    assert part().cpu_ratio == pytest.approx(1.25)
    text = part().text()
    assert "0.75 times" in text and "1.25 by processor time" in text and "1.0e-06" in text
    alone = part(most=1)
    assert alone.ratio is None and alone.cpu_ratio is None and "peer" not in alone.text()


def test_processor_time_is_not_shown_where_it_says_nothing():
    found = part(cpu_ceiling=0.0)
    assert found.cpu_ratio is None and "processor time" not in found.text()


def test_without_torch_it_says_why_there_is_no_peer(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="no peer: torch is not installed"):
        compare.main(["--size=tiny", "--device=cpu"])
    with pytest.raises(UserError, match="--peers=jit"):
        compare.main(["--peers=jit"])
