import json
import os
import resource
import stat
from pathlib import Path

import jax
import pytest

from configs.demo import get_config as demo
from stedm_jax.common.errors import UserError
from stedm_jax.doctor import checks, inputs, machine, programs, storage
from stedm_jax.doctor.__main__ import main
from stedm_jax.doctor.findings import checked, lines, ok
from stedm_jax.workdir import Workdir


def verdicts(found) -> list[str]:
    return [finding.verdict for finding in found]


def test_this_machine_passes(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "PROBE", 1_000_000)
    assert main([f"--workdir={tmp_path / 'run'}", f"--json={tmp_path / 'found.json'}"]) == 0
    told = capsys.readouterr().out
    for name in (
        "python",
        "libraries",
        "openslide",
        "devices",
        "memory",
        "disk",
        "file locks",
        "compile cache",
    ):
        assert name in told
    assert " 0 FAIL" in told
    assert {each["verdict"] for each in json.loads((tmp_path / "found.json").read_text())} <= {
        "PASS",
        "WARN",
    }
    assert not list(tmp_path.glob(".doctor-*")) and not (tmp_path / "run").exists()


def test_a_configuration_without_its_data_and_weights_fails(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("STEDM_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(storage, "PROBE", 1_000_000)
    monkeypatch.setattr(
        checks, "leaves", lambda config: 1e6
    )  # reckoned in a test of its own, at a small size
    status = main(["--config=configs/catch.py", f"--workdir={tmp_path / 'run'}"])
    told = capsys.readouterr().out
    assert status == 2
    assert "FAIL  weights" in told and "ldm-vq-f4" in told
    assert "FAIL  data" in told and "The Cancer Imaging Archive" in told


def test_a_tile_set_is_verified_with_splits_and_patients(tile_set, tmp_path: Path) -> None:
    config = demo("tiny")
    config.data.update(
        {"tiles": str(tile_set.path), "tile": 32, "groups": (), "foreground": ("tumour",)}
    )
    found = list(inputs.data(config, Workdir(tmp_path)))
    assert verdicts(found) == ["PASS"] * 4
    shard = next(tile_set.path.glob("*train*array_record*"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    found = checked("data", lambda: inputs.data(config, Workdir(tmp_path)))
    assert [each.verdict for each in found] == ["FAIL"] and shard.name in found[0].seen


def test_a_patient_in_two_splits_is_a_failure(tile_set, tmp_path: Path) -> None:
    manifest = tile_set.path / "manifest.json"
    text = json.loads(manifest.read_text())
    text["patients"]["test"].append(text["patients"]["train"][0])
    manifest.write_text(json.dumps(text))
    config = demo("tiny")
    config.data.update({"tiles": str(tile_set.path), "tile": 32, "groups": ()})
    found = checked("data", lambda: inputs.data(config, Workdir(tmp_path)))
    assert found[-1].verdict == "FAIL" and "more than one split" in found[-1].seen


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, ["PASS"]),
        (
            {
                "STEDM_COORDINATOR": "localhost:1234",
                "STEDM_PROCESSES": "2",
                "STEDM_PROCESS_ID": "1",
            },
            ["PASS"],
        ),
        (
            {
                "STEDM_COORDINATOR": "localhost:1234",
                "STEDM_PROCESSES": "2",
                "STEDM_PROCESS_ID": "2",
            },
            ["FAIL"],
        ),
        ({"STEDM_COORDINATOR": "localhost:1234"}, ["FAIL"]),
        ({"STEDM_PROCESSES": "2", "STEDM_PROCESS_ID": "1"}, ["FAIL"]),
        (
            {"STEDM_COORDINATOR": "localhost", "STEDM_PROCESSES": "2", "STEDM_PROCESS_ID": "1"},
            ["FAIL"],
        ),
        (
            {"STEDM_COORDINATOR": "localhost:x", "STEDM_PROCESSES": "2", "STEDM_PROCESS_ID": "1"},
            ["FAIL"],
        ),
        (
            {"STEDM_COORDINATOR": "localhost:1", "STEDM_PROCESSES": "two", "STEDM_PROCESS_ID": "1"},
            ["FAIL"],
        ),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, ["PASS"]),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, ["FAIL"]),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, ["WARN", "PASS"]),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, ["PASS"]),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "5"}, ["FAIL"]),
        (
            {
                "STEDM_COORDINATOR": "localhost:1",
                "STEDM_PROCESSES": "2",
                "STEDM_PROCESS_ID": "1",
                "TPU_WORKER_HOSTNAMES": "a,b",
                "TPU_WORKER_ID": "1",
            },
            ["PASS", "PASS", "WARN"],
        ),
    ],
)
def test_what_the_environment_says_of_processes(env, wanted) -> None:
    assert verdicts(inputs.processes(env)) == wanted


def test_batches_against_the_devices() -> None:
    config = demo("tiny")
    assert verdicts(inputs.batches(config)) == ["PASS"]
    config.synthesis.batch = 12
    found = list(inputs.batches(config))
    assert verdicts(found) == ["FAIL", "PASS"]
    assert f"does not divide over {jax.device_count()}" in found[0].seen


def test_the_cache_of_compiled_programs_has_to_be_private(tmp_path: Path) -> None:
    assert storage.compile_cache(tmp_path / "run").verdict == "PASS"
    cache = tmp_path / "run" / ".compile_cache"
    cache.mkdir(parents=True)
    assert storage.compile_cache(tmp_path / "run").verdict == "PASS"
    cache.chmod(0o777)
    assert storage.compile_cache(tmp_path / "run").verdict == "FAIL"
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert storage.compile_cache(tmp_path / "open").verdict == "WARN"
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o777  # looked at, not changed


def test_a_run_that_is_going_on_is_noticed(tmp_path: Path) -> None:
    assert storage.in_use(tmp_path).verdict == "PASS"
    with Workdir(tmp_path).locked():
        assert storage.in_use(tmp_path).verdict == "WARN"
    assert storage.in_use(tmp_path).verdict == "PASS"


def test_too_little_room_is_a_failure(tmp_path: Path) -> None:
    assert storage.room(tmp_path, 1e15).verdict == "FAIL"
    free = os.statvfs(tmp_path)
    assert storage.room(tmp_path, 0.75 * free.f_bavail * free.f_frsize).verdict == "WARN"


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryDirectory", refuse)
    assert verdicts(storage.speed(tmp_path)) == ["FAIL"]


def test_a_file_system_without_locks_is_a_failure(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(storage, "SLOW", 0.0)
    monkeypatch.setattr(storage, "PROBE", 1_000_000)
    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    assert verdicts(storage.speed(tmp_path)) == ["PASS", "FAIL"]
    monkeypatch.setattr(storage.fcntl, "flock", lambda *_: None)
    assert verdicts(storage.speed(tmp_path)) == ["PASS", "FAIL"]


def test_few_open_files_are_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert machine.open_files().verdict == "WARN"


def test_shared_memory(tmp_path: Path, monkeypatch) -> None:
    assert machine.shared_memory(str(tmp_path / "none")).verdict == "WARN"
    monkeypatch.setattr(machine, "SHARED_MEMORY", 1e18)
    assert machine.shared_memory(str(tmp_path)).verdict == "WARN"


def test_memory_is_that_of_the_control_group(tmp_path: Path, monkeypatch) -> None:
    for name, text in (
        ("proc/meminfo", "MemAvailable:    8000000 kB\n"),
        ("sys/fs/cgroup/memory.max", "3000000000\n"),
        ("sys/fs/cgroup/memory.current", "1000000000\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.available_memory(tmp_path) == 2e9
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert machine.available_memory(tmp_path) == 8e6 * 1024
    monkeypatch.setattr(machine, "available_memory", lambda: 1e10)
    assert machine.memory(16_000).verdict == "WARN"
    assert machine.memory(1_000).verdict == "PASS"


def test_missing_and_old_libraries_are_named(monkeypatch) -> None:
    real = machine.importlib.metadata.requires
    wanted = [*(real("stedm_jax") or ()), "no-such-library>=1", "numpy>=99.0"]
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda _: wanted)
    found = list(machine.libraries())
    assert verdicts(found) == ["FAIL", "PASS"]
    assert "no-such-library is missing" in found[0].seen and "needed 99.0" in found[0].seen


def test_a_check_that_breaks_does_not_hide_the_others() -> None:
    def broken():
        yield ok("x", "seen")
        raise RuntimeError("oops")

    found = checked("x", broken)
    assert found[-1].verdict == "FAIL" and "oops" in found[-1].seen
    assert lines(ok("x", "seen")) == ["PASS  x             seen"]


def test_the_command_line(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--topology=v5e:4x4"])
    assert "needs a --config" in capsys.readouterr().err
    with pytest.raises(UserError, match="--part=sleep"):
        main(["--config=configs/demo.py", "--topology=v5e:4x4", "--part=sleep"])
    with pytest.raises(UserError, match="no topology"):
        main(["--config=configs/demo.py", "--topology=v5e:9"])
    with pytest.raises(UserError, match="no key"):
        main(["--config=configs/demo.py", "--config.nothing=1"])


def test_what_a_run_leaves_is_reckoned(monkeypatch) -> None:
    million = {"kernel": jax.ShapeDtypeStruct((1000, 1000), "float32")}
    monkeypatch.setattr(programs, "abstract_params", lambda _: [("diffusion", million)])
    config = demo("tiny")
    config.synthesis.count = 0
    kept = config.diffusion.train.keep + 1
    assert checks.leaves(config) == 4e6 * 4 * kept  # parameters, two moments and the moving average
    config.synthesis.count = 10
    assert checks.leaves(config) == 4e6 * 4 * kept + 2 * 10 * 64 * 64 * 3
