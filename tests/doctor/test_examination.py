import json
import os
import resource
import stat
from pathlib import Path

import jax
import pytest

from configs.demo import get_config as demo
from stedm_jax.common import locks
from stedm_jax.common.errors import UserError
from stedm_jax.doctor import examination, inputs, machine, storage
from stedm_jax.doctor.__main__ import main
from stedm_jax.doctor.findings import findings_of, ok
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.load import read_settings


def verdicts(found) -> list[str]:
    return [finding.verdict for finding in found]


def test_this_machine_passes(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "PROBE", 1_000_000)
    assert main([f"--workdir={tmp_path / 'run'}", f"--json={tmp_path / 'found.json'}"]) == 0
    text = capsys.readouterr().out
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
        assert name in text
    assert " 0 FAIL" in text
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
    # Full-size networks are built in a test of their own.
    monkeypatch.setattr(examination, "workdir_bytes", lambda settings: 1e6)
    monkeypatch.setattr(inputs, "check_cells", lambda context, names: None)
    status = main(["--config=configs/catch.py", f"--workdir={tmp_path / 'run'}"])
    text = capsys.readouterr().out
    assert status == 2
    assert "FAIL  cells         autoencoder: " in text and "ldm-vq-f4" in text
    assert "FAIL  data" in text and "The Cancer Imaging Archive" in text


def settings_of(tiles: Path, **changes):
    config = demo("tiny")
    config.data.update({"tiles": str(tiles), "tile": 32, "groups": ()} | changes)
    config.autoencoder.crop = 0
    return read_settings(config)


def test_a_tile_set_is_verified_with_splits_and_patients(tile_set, tmp_path: Path) -> None:
    settings = settings_of(tile_set.path, foreground=("tumour",))
    found = findings_of("data", lambda: inputs.data(settings, Workdir(tmp_path)))
    assert [each.name for each in found] == ["data", "classes", "patients", "checksums"]
    assert verdicts(found) == ["PASS"] * 4
    shard = next(tile_set.path.glob("*train*array_record*"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    found = findings_of("data", lambda: inputs.data(settings, Workdir(tmp_path)))
    # What was found before the damage stays.
    assert verdicts(found) == ["PASS"] * 3 + ["FAIL"] and shard.name in found[-1].seen


def test_a_patient_in_two_splits_is_a_failure(tile_set, tmp_path: Path) -> None:
    manifest = tile_set.path / "manifest.json"
    text = json.loads(manifest.read_text())
    text["patients"]["test"].append(text["patients"]["train"][0])
    manifest.write_text(json.dumps(text))
    settings = settings_of(tile_set.path)
    found = findings_of("data", lambda: inputs.data(settings, Workdir(tmp_path)))
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


def test_cells_that_a_run_would_refuse(tmp_path: Path) -> None:
    config = demo("tiny")
    config.stages = ("data", "synthesis")
    workdir = Workdir(tmp_path)
    assert verdicts(inputs.cells(read_settings(config), workdir)) == ["PASS"]
    config.synthesis.batch = 12
    (found,) = inputs.cells(read_settings(config), workdir)
    assert found.verdict == "FAIL" and found.seen.startswith("synthesis/synthetic: ")
    assert f"does not divide over {jax.device_count()}" in found.seen


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
    with Workdir(tmp_path).making("generator/stedm"):
        found = storage.in_use(tmp_path)
        assert found.verdict == "WARN" and "(generator/stedm)" in found.seen
    assert storage.in_use(tmp_path).verdict == "PASS"


def test_too_little_room_is_a_failure(tmp_path: Path) -> None:
    assert storage.space(tmp_path, 1e15).verdict == "FAIL"
    free = os.statvfs(tmp_path)
    assert storage.space(tmp_path, 0.75 * free.f_bavail * free.f_frsize).verdict == "WARN"


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
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    assert verdicts(storage.speed(tmp_path)) == ["PASS", "FAIL"]
    monkeypatch.setattr(locks.fcntl, "flock", lambda *_: None)
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
    assert "no-such-library is missing" in found[0].seen and "needed >=99.0" in found[0].seen


def test_a_check_that_breaks_does_not_hide_the_others() -> None:
    def broken():
        yield ok("seen")
        raise RuntimeError("oops")

    first, last = findings_of("x", broken)
    assert last.verdict == "FAIL" and "oops" in last.seen and last.name == "x"
    assert str(first) == "PASS  x             seen"


def test_the_command_line(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--topology=v5e:4x4"])
    assert "needs a --config" in capsys.readouterr().err
    with pytest.raises(UserError, match="--part=sleep"):
        main(["--config=configs/demo.py", "--topology=v5e:4x4", "--part=sleep"])
    with pytest.raises(UserError, match="not a topology"):
        main(["--config=configs/demo.py", "--topology=v5e:9"])
    with pytest.raises(UserError, match="no key"):
        main(["--config=configs/demo.py", "--config.nothing=1"])


def test_what_a_run_leaves_in_its_workdir(monkeypatch) -> None:
    monkeypatch.setattr(examination, "param_count", lambda params: 1_000_000)
    config = demo("tiny")
    config.stages = ("generator", "synthesis")
    config.synthesis.count = 10
    kept = config.diffusion.train.keep + 1
    tiles = 2 * 10 * 64 * 64 * 3
    # Parameters, two moments and the moving average.
    assert examination.workdir_bytes(read_settings(config)) == 4e6 * 4 * kept + tiles
    config.diffusion.generators = {"stedm": {}, "other": {}}
    assert examination.workdir_bytes(read_settings(config)) == 2 * 4e6 * 4 * kept + tiles
