import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.demo import get_config as demo
from stedm_jax.doctor import pods
from stedm_jax.doctor.chips import _quiet
from stedm_jax.doctor.collectives import collectives
from stedm_jax.doctor.hlo import Module
from stedm_jax.doctor.programs import prepare
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir

ROOT = Path(__file__).parent.parent.parent


def test_signs_of_life(capsys) -> None:
    with pods._pulse("something", every=0.01):
        while "still compiling" not in capsys.readouterr().out:
            pass


def test_what_libtpu_says_is_shown_only_when_it_fails(capfd) -> None:
    with _quiet():
        os.write(2, b"noise\n")
    assert "noise" not in capfd.readouterr().err
    with pytest.raises(ValueError), _quiet():
        os.write(2, b"reason\n")
        raise ValueError
    assert "reason" in capfd.readouterr().err


@pytest.mark.slow
def test_the_sampler_sends_nothing_between_devices(tmp_path: Path) -> None:
    config = demo("tiny")
    config.synthesis.batch = 8
    compiled = prepare(config, Workdir(tmp_path), make_mesh(), "sampler").trace().lower().compile()
    assert not collectives(Module(compiled.as_text()))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs pip install -e '.[tpu]'; no TPU")
def test_a_small_program_for_a_pod_that_is_not_there(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "stedm_jax.doctor", "--config=configs/demo.py:tiny", "--topology=v5e:2x2",
        f"--json={tmp_path / 'found.json'}", f"--text={tmp_path / 'text'}",
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["verdict"] == "PASS" and found["chips"] == 4
    gradients = found["traffic"]["all-reduce"]
    assert gradients["size"] == pytest.approx(found["held"]["parameters"], rel=0.05)  # each gradient once, float32
    assert gradients["wire"] == pytest.approx(2 * 3 / 4 * gradients["size"])
    assert len(list((tmp_path / "text").iterdir())) == 1
