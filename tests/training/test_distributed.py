import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from stedm_jax.common.errors import UserError
from stedm_jax.training import distributed, peers
from stedm_jax.training.hardware import enable_compile_cache
from stedm_jax.training.rng import step_key, stream_key


def test_alone_nothing_happens(monkeypatch) -> None:
    for name in (
        "STEDM_COORDINATOR",
        "SLURM_STEP_NODELIST",
        "SLURM_NTASKS",
        "TPU_WORKER_HOSTNAMES",
    ):
        monkeypatch.delenv(name, raising=False)
    assert distributed.start() is False


@pytest.fixture
def started(monkeypatch) -> list:
    """What jax.distributed.initialize was called with."""
    calls: list = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    for name in (
        "STEDM_COORDINATOR",
        "STEDM_PROCESSES",
        "STEDM_PROCESS_ID",
        "SLURM_STEP_NODELIST",
        "SLURM_NTASKS",
    ):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("env", "cards"),
    [
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, None),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}, None),
        (
            {
                "SLURM_STEP_NODELIST": "n[1-2]",
                "SLURM_NTASKS": "2",
                "SLURM_NNODES": "2",
                "SLURM_GPUS_ON_NODE": "4",
            },
            [0, 1, 2, 3],
        ),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),
        ({"MEGASCALE_NUM_SLICES": "2"}, None),
    ],
)
def test_a_scheduler_starts_it(monkeypatch, started, env, cards) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert distributed.start() is True
    assert started == [((), {"local_device_ids": cards, "heartbeat_timeout_seconds": 30})]


def test_flags_win_over_the_environment_and_no_scheduler_is_asked(monkeypatch, started) -> None:
    for name, value in {
        "STEDM_COORDINATOR": "h:1",
        "STEDM_PROCESSES": "2",
        "STEDM_PROCESS_ID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STEDM_HEARTBEAT", "7")
    assert distributed.start() is True and distributed.start("other:2", 3, 0) is True
    assert [call[0] for call in started] == [("h:1", 2, 1), ("other:2", 3, 0)]
    assert started[0][1] == {
        "cluster_detection_method": "deactivate",
        "heartbeat_timeout_seconds": 7,
    }


def test_half_a_coordinator_is_refused(monkeypatch, started) -> None:
    with pytest.raises(UserError, match="STEDM_PROCESSES"):
        distributed.start("host:1")
    with pytest.raises(UserError, match="no coordinator"):
        distributed.start(processes=2, process=1)
    monkeypatch.setenv("STEDM_PROCESSES", "two")
    with pytest.raises(UserError, match="no whole number"):
        distributed.start("host:1")


def test_a_process_alone_asks_nobody() -> None:
    assert peers.first() and not peers.several() and peers.on_first(lambda: 7) == 7


def test_streams_and_steps_never_share_a_key() -> None:
    root = jax.random.key(0)
    keys = [step_key(root, n) for n in range(4)] + [
        stream_key(0, s, i) for s in ("init", "eval") for i in range(4)
    ]
    keys += list(jax.random.split(stream_key(0, "init"), 4))
    keys += list(jax.random.split(step_key(root, 1), 4))
    data = {tuple(jax.random.key_data(key).tolist()) for key in keys}
    assert len(data) == len(keys)


def test_compiled_programs_are_kept(tmp_path) -> None:
    before = jax.config.jax_compilation_cache_dir
    enable_compile_cache(tmp_path / "cache")
    try:
        jax.jit(lambda x: jnp.sin(x) * 3)(jnp.ones(7)).block_until_ready()
        assert any((tmp_path / "cache").iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()
