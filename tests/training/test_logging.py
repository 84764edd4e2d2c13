import io
import json

import numpy as np
import pytest

from stedm_jax.training.logging import MetricLog, read_rows
from stedm_jax.training.progress import Progress


def test_rows_after_the_resumed_step_are_dropped(tmp_path) -> None:
    log = MetricLog(tmp_path)
    for step in range(1, 8):
        log.scalars(step, {"loss": step / 2})
    log.scalars(5, {"iou": 0.5}, "eval/")
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # torn by a kill
    log = MetricLog(tmp_path, step=5)
    log.scalars(6, {"loss": float("nan")})
    log.images(6, {"grid/one": np.full((4, 5, 3), 9, np.uint8)})
    log.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5, 6]
    assert rows[5]["eval/iou"] == 0.5 and rows[-1]["loss"] is None
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (tmp_path / "images" / "grid_one-00000006.png").exists() and list(
        (tmp_path / "tensorboard").iterdir()
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    screen, file = Terminal(), io.StringIO()
    for out in (screen, file):
        now[0] = 0.0
        progress = Progress("toy", 100, 8, out=out, interval=5.0)
        for step in range(1, 61):
            now[0] += 0.1
            progress.advance(step, 0.25, waited=0.05)
        with progress.paused():
            now[0] += 1000
        assert progress.rates() == {
            "images_per_second": pytest.approx(80),
            "data_wait": pytest.approx(0.5),
        }
    assert "\n" not in screen.getvalue() and screen.getvalue().count("\r") >= 20
    assert file.getvalue().count("\n") == 2
    last = file.getvalue().splitlines()[-1]
    for part in ("[toy]", "/100", " images ", "80 images/s", "wait 50%", "ETA 0:0", "loss 0.25"):
        assert part in last
