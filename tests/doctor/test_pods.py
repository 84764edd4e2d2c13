import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.demo import get_config as demo
from stedm_jax.common.errors import UserError
from stedm_jax.doctor import chips, pods
from stedm_jax.doctor.__main__ import main as doctor
from stedm_jax.doctor.account import Account, Request
from stedm_jax.doctor.chips import _quiet
from stedm_jax.settings.load import read_settings

ROOT = Path(__file__).parent.parent.parent
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs pip install -e '.[tpu]'; no TPU"
)


@pytest.mark.parametrize(
    ("changes", "per_chip", "message"),
    [
        (
            {},
            0,
            "sampler on v5e:16x16: .*batch of 64 does not divide over 256.*valid: 256"
            ".*synthesis.batch=N",
        ),
        ({"fsdp": 3}, 4, "256 chips, which mesh data -1 x fsdp 3 does not fill"),
        ({"data": 8}, 4, "mesh data 8 x fsdp 1 does not fill"),
    ],
)
def test_what_does_not_divide_is_refused(changes, per_chip, message) -> None:
    config = demo("tiny")
    config.synthesis.batch = 64
    config.mesh.update(changes)
    with pytest.raises(UserError, match=message):
        pods.global_batch(read_settings(config), "v5e:16x16", "sampler", per_chip)


def test_all_topologies_are_compiled_and_shown_in_a_table_and_json(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    asked = []

    def compiled(request: Request) -> Account:
        asked.append((request.topology, request.part, request.images, request.cache))
        chips = request.images // 4
        mesh, held = {"data": chips, "fsdp": 1}, {"parameters": 1}
        return Account("train", request.topology, chips, mesh, request.images, held, traced=1e12)

    monkeypatch.setattr("stedm_jax.doctor.__main__.check_compiler", lambda: None)
    monkeypatch.setattr("stedm_jax.doctor.__main__.prepare_environment", lambda: None)
    monkeypatch.setattr(pods, "compile_apart", compiled)
    monkeypatch.setattr(pods, "available_memory", lambda: 3e9)
    file = tmp_path / "new" / "found.json"
    flags = ["--topology=v5e:2x2,v5e:16x16", "--batch_per_chip=4", "--cache=kept"]
    assert doctor(["--config=configs/demo.py:tiny", *flags, f"--json={file}"]) == 0
    assert asked == [("v5e:2x2", "train", 16, "kept"), ("v5e:16x16", "train", 1024, "kept")]
    assert [one["chips"] for one in json.loads(file.read_text())] == [4, 256]
    text = capsys.readouterr().out
    assert "WARN  3.0 GB of memory are free here; the compiler takes up to 15 GB" in text
    assert "compiling 2 of 2: train on v5e:16x16, 1024 images on 256 chips" in text
    assert "| train | v5e:16x16 | 256 | 1 | 4 |" in text and "not a measurement" in text


def test_a_missing_compiler_is_noticed_at_once(monkeypatch) -> None:
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no TPU compiler.*pip install -e '.\[tpu\]'"):
        doctor(["--config=configs/demo.py:tiny", "--topology=v5e:2x2"])


@pytest.mark.parametrize("flag", ["--part=sampler", "--batch_per_chip=4", "--cache=x"])
def test_flags_that_mean_nothing_without_a_topology_are_refused(flag, capsys) -> None:
    with pytest.raises(SystemExit):
        doctor(["--config=configs/demo.py:tiny", flag])
    assert "goes with --topology" in capsys.readouterr().err


def test_what_libtpu_says_is_shown_only_when_it_fails(capfd) -> None:
    with _quiet():
        os.write(2, b"noise\n")
    assert "noise" not in capfd.readouterr().err
    with pytest.raises(ValueError), _quiet():
        os.write(2, b"WARNING: could not determine TPU accelerator type, please set it\nreason\n")
        raise ValueError
    assert capfd.readouterr().err == "reason\n"


@pytest.mark.slow
@needs_compiler
def test_a_small_program_for_a_pod_that_is_not_there(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "stedm_jax.doctor",
        "--config=configs/demo.py:tiny",
        "--topology=v5e:2x2",
        f"--json={tmp_path / 'found.json'}",
        f"--cache={tmp_path / 'cache'}",
    ]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["verdict"] == "PASS" and found["chips"] == 4
    gradients = found["traffic"]["all-reduce"]
    assert gradients["size"] == pytest.approx(
        found["held"]["parameters"], rel=0.05
    )  # each gradient once, float32
    assert gradients["wire"] == pytest.approx(2 * 3 / 4 * gradients["size"])
    again = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert "at another time in" in again.stdout
    (kept,) = json.loads((tmp_path / "found.json").read_text())
    assert {**kept, "kept": False} == found


@pytest.mark.slow
@needs_compiler
def test_a_pod_sums_the_gradients_of_micro_batches_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "stedm_jax.doctor",
        "--config=configs/demo.py:tiny",
        "--topology=v5e:2x2",
        "--part=train",
        "--batch_per_chip=4",
        "--config.diffusion.train.accumulate=4",
        f"--json={tmp_path / 'found.json'}",
        f"--cache={tmp_path / 'cache'}",
    ]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())
    once = 2 * 3 / 4 * found["held"]["parameters"]
    assert (
        once < found["traffic"]["all-reduce"]["wire"] < 1.5 * once
    )  # four times, if summed in every turn
