import json

import numpy as np
import pytest

from stedm_jax.bench import __main__ as command
from stedm_jax.bench import memory
from stedm_jax.common.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/nothing.py"], "no config file"),
        (["--config.diffusion.unet.bas=3"], "no key 'diffusion.unet.bas'"),
        (["--what=train,nothing"], "--what=train,nothing"),
        (["--what="], "--what="),
        (["--batch=-1"], "--batch=-1"),
        (["--seconds=0"], "--seconds=0"),
        (["--json=/nowhere/at/all.json"], "no folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_compiled(arguments, message):
    with pytest.raises(UserError, match=message):
        command.main(arguments)


def test_a_mistake_ends_with_a_paragraph_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "--what=nothing"])
    with pytest.raises(SystemExit) as ended:
        command.cli()
    assert ended.value.code == 2 and "error: --what=nothing" in capsys.readouterr().err


def test_stray_words_are_refused():
    with pytest.raises(SystemExit):
        command.main(["--sise=tiny"])


@pytest.mark.slow
def test_ours_alone_is_measured_and_reported(tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = [
        "--size=tiny",
        "--batch=2",
        "--device=cpu",
        "--seconds=0.05",
        f"--json={out}",
    ]
    command.main([*arguments, "--what=train,sampler"])
    text, found = capsys.readouterr().out, json.loads(out.read_text())
    assert text.count("GFLOP of products a call") == 2
    train, sampler = found["parts"]
    # Of one image: a step is three forward passes, and the sampler makes two.
    assert train["flops"] == pytest.approx(1.5 * sampler["flops"])
    for part in found["parts"]:
        (row,) = part["rows"]
        assert row["calls"] >= 3 and 0 < row["seconds"] <= row["median"] and row["mfu"] > 0
    assert found["machine"]["batch"] == 2 and found["machine"]["dtype"] == "float32"


def test_memory_is_what_a_call_adds():
    size = 64 * 2**20
    risen = memory.growth(lambda: np.ones(size // 8).sum())
    if risen is None:
        pytest.skip("this system does not report the memory of a process")
    assert 0.9 * size < risen < 1.5 * size
    assert memory.growth(lambda: None) < 0.1 * size
    assert memory.tree_bytes({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.uint8)}) == 29
