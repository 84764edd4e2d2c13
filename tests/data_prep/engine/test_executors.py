import os
import time

import pytest

from data_prep.engine.executors import WorkerDied, run_all, run_tasks
from stedm_jax.common.errors import UserError


def square(number):
    return number * number


def fail(number):
    if number == 3:
        raise ValueError("three")
    return os.getpid()


def die(number):
    if number == 2:
        time.sleep(0.1)
        os._exit(1)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_all_results_or_an_error(workers):
    assert sorted(run_all(square, range(7), workers)) == [i * i for i in range(7)]
    if workers > 1:
        with pytest.raises(UserError, match="A worker died over 2"):
            list(run_all(die, range(4), workers))


def test_all_results_come_once():
    assert sorted(run_tasks(square, range(9), 2)) == [(i, i * i) for i in range(9)]


def test_errors_come_through():
    with pytest.raises(ValueError, match="three"):
        list(run_all(fail, range(9), 2))


def test_only_the_task_that_kills_its_worker_fails():
    results = dict(run_tasks(die, range(8), 2))
    assert isinstance(results.pop(2), WorkerDied)
    assert results == {i: i for i in range(8) if i != 2}


def test_one_that_waits_its_turn_is_no_suspect(tmp_path):
    """A task that dies at once: those submitted run at once, and only they run twice."""
    tasks = [(tmp_path, number) for number in range(12)]
    results = dict(run_tasks(die_at_once, tasks, 2))
    assert isinstance(results.pop(0), WorkerDied) and len(results) == 11
    assert len(list(tmp_path.iterdir())) <= 12 + 2


def die_at_once(task):
    folder, number = task
    (folder / f"{number}-{os.getpid()}").touch()
    if number == 0:
        os._exit(1)
    return number


def test_no_scheduler_there(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("data_prep.engine.executors.PATIENCE", 1)
    with pytest.raises(
        UserError, match="No dask scheduler answers at --scheduler=tcp://127.0.0.1:9"
    ):
        list(run_tasks(square, range(3), scheduler="tcp://127.0.0.1:9"))


@pytest.mark.slow
def test_a_real_scheduler_with_two_worker_processes():
    distributed = pytest.importorskip("distributed")
    settings = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": None,
    }
    with (
        distributed.LocalCluster(**settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        processes = set(client.run(os.getpid).values())
        found = {
            result
            for _, result in run_tasks(pid_of, range(12), scheduler=cluster.scheduler_address)
        }
    assert found == processes and len(processes) == 2


def pid_of(number):
    time.sleep(0.05)
    return os.getpid()
