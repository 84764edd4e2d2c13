"""Weights & Biases as far as this package is concerned: asked for, installed, failing."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.logging import MetricLog, read_rows
from stedm_jax.training.mirror import Mirror


class Fake:
    """In place of the module: notes what it is given, and fails where it should."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.begun, self.rows, self.ended = fails, [], [], 0

    def init(self, **settings: Any) -> "Fake":
        self._may_fail("init")
        self.begun.append(settings)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self._may_fail("log")
        self.rows.append((step, values))

    def finish(self) -> None:
        self._may_fail("finish")
        self.ended += 1

    def _may_fail(self, where: str) -> None:
        if where == self.fails:
            raise OSError("no route to host")

    Settings = staticmethod(SimpleNamespace)
    Image = staticmethod(lambda pixels: pixels.shape)


def test_it_is_not_imported_unless_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    log = MetricLog(tmp_path)
    log.scalars(1, {"loss": 1.0})
    log.close()
    with pytest.raises(UserError, match=r"pip install 'stedm_jax\[wandb\]'"):
        Mirror(tmp_path, "offline")


def test_rows_and_pictures_are_shown_and_a_run_that_goes_on_is_the_same(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake := Fake())
    for step in (0, 1):
        log = MetricLog(tmp_path, step, "offline")
        log.scalars(step + 1, {"loss": 0.5}, "eval/")
        log.images(step + 1, {"grid": np.zeros((4, 5, 3), np.uint8)})
        log.close()
    assert fake.rows == [
        (1, {"eval/loss": 0.5}),
        (1, {"grid": (4, 5, 3)}),
        (2, {"eval/loss": 0.5}),
        (2, {"grid": (4, 5, 3)}),
    ]
    assert (
        fake.ended == 2
        and fake.begun[0]["mode"] == "offline"
        and fake.begun[0]["dir"] == str(tmp_path)
    )
    assert fake.begun[0]["id"] == fake.begun[1]["id"] and len(fake.begun[0]["id"]) == 16


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_its_failures_stop_nothing(tmp_path, monkeypatch, capsys, fails) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Fake(fails))
    log = MetricLog(tmp_path, 0, "online")
    for step in (1, 2):
        log.scalars(step, {"loss": 1.0})
    log.close()
    assert capsys.readouterr().out.count("wandb is left out from here on: OSError: no route") == 1
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2
