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
from stedm_jax.doctor.account import Account
from stedm_jax.doctor.chips import _quiet
from stedm_jax.doctor.collectives import collectives
from stedm_jax.doctor.hlo import Module
from stedm_jax.doctor.programs import prepare
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("changes", "per_chip", "said"),
    [
        (
            {},
            0,
            "sampler on v5e:16x16: .*batch of 64 does not divide over 256.*valid: 256.*synthesis.batch=N",
        ),
        ({"fsdp": 3}, 4, "64 chips, which mesh data -1 x fsdp 3 does not fill"),
        ({"data": 8}, 4, "mesh data 8 x fsdp 1 does not fill"),
    ],
)
def test_what_does_not_divide_is_refused_before_anything_is_compiled(
    changes, per_chip, said, monkeypatch
) -> None:
    config = demo("tiny")
    config.diffusion.train.batch, config.synthesis.batch = 256, 64
    config.mesh.update(changes)
    monkeypatch.setattr(pods, "compile_apart", lambda request: pytest.fail("compiled"))
    with pytest.raises(UserError, match=said):
        pods.examine(
            config,
            Workdir(Path("runs/x")),
            ["v5e:8x8", "v5e:16x16"],
            ["train", "sampler"],
            per_chip,
        )


def test_all_topologies_are_told_in_tables_and_json(tmp_path: Path, monkeypatch, capsys) -> None:
    asked = []

    def compiled(request) -> Account:
        asked.append((request.topology, request.config.diffusion.train.batch, request.cache))
        chips = asked[-1][1] // 4
        mesh = {"data": chips, "fsdp": 1}
        return Account(
            "train", request.topology, chips, mesh, 4 * chips, {"parameters": 1}, products=1e12
        )

    monkeypatch.setattr(pods, "compile_apart", compiled)
    monkeypatch.setattr(pods, "available_memory", lambda: 3e9)
    file = tmp_path / "new" / "found.json"
    arguments = (["v5e:2x2", "v5e:16x16"], ["train"], 4, str(file), "", "kept")
    assert pods.examine(demo("tiny"), Workdir(tmp_path), *arguments) == 0
    assert asked == [("v5e:2x2", 16, "kept"), ("v5e:16x16", 1024, "kept")]
    assert [one["chips"] for one in json.loads(file.read_text())] == [4, 256]
    told = capsys.readouterr().out
    assert "WARN  3.0 GB of memory are free here; the compiler takes up to 15 GB" in told
    assert "compiling 2 of 2: train on v5e:16x16, 1024 images on 256 chips" in told
    assert "4 to 256 chips of v5e: a chip's products +0.0 %" in told and "not a measurement" in told


def test_no_compiler_is_told_at_once(monkeypatch) -> None:
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no TPU compiler.*pip install -e '.\[tpu\]'"):
        doctor(["--config=configs/demo.py:tiny", "--topology=v5e:2x2"])


@pytest.mark.parametrize("flag", ["--part=sampler", "--batch_per_chip=4", "--text=x", "--cache=x"])
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
def test_the_sampler_sends_nothing_between_devices(tmp_path: Path) -> None:
    config = demo("tiny")
    config.synthesis.batch = 8
    compiled = prepare(config, Workdir(tmp_path), make_mesh(), "sampler").trace().lower().compile()
    assert not collectives(Module(compiled.as_text()))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs pip install -e '.[tpu]'; no TPU"
)
def test_a_small_program_for_a_pod_that_is_not_there(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "stedm_jax.doctor",
        "--config=configs/demo.py:tiny",
        "--topology=v5e:2x2",
        f"--json={tmp_path / 'found.json'}",
        f"--text={tmp_path / 'text'}",
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
    assert len(list((tmp_path / "text").iterdir())) == 1
    again = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert "compiled before" in again.stdout and "compiled at another time" in again.stdout
    (kept,) = json.loads((tmp_path / "found.json").read_text())
    assert {**kept, "kept": False} == found


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs pip install -e '.[tpu]'; no TPU"
)
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
