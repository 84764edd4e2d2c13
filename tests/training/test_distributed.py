import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from stedm_jax.errors import UserError
from stedm_jax.training import distributed
from stedm_jax.training.cache import enable_compile_cache
from stedm_jax.training.rng import step_key, stream_key


def test_alone_nothing_happens(monkeypatch) -> None:
    for name in ("STEDM_COORDINATOR", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.start() is False


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"STEDM_COORDINATOR": "h:1", "STEDM_PROCESSES": "2", "STEDM_PROCESS_ID": "1"},
    ],
)
def test_the_environment_starts_it(monkeypatch, env) -> None:
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a: calls.append(a))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert distributed.start() is True
    assert calls == [("h:1", 2, 1)] if "STEDM_COORDINATOR" in env else calls == [()]


def test_half_a_coordinator_is_refused() -> None:
    with pytest.raises(UserError, match="STEDM_PROCESSES"):
        distributed.start("host:1")


def test_streams_and_steps_never_share_a_key() -> None:
    root = jax.random.key(0)
    keys = [step_key(root, n) for n in range(4)] + [stream_key(0, s, i) for s in ("init", "eval") for i in range(4)]
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
