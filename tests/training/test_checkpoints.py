import functools
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training import manifest
from stedm_jax.training.checkpoints import Checkpoints, finished
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from tests.training import toy


def mesh_of(devices: int, fsdp: int = 1):
    return make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])


@functools.cache
def state_of(seed: int, mesh=None):
    return Program(toy.ToyTask(), toy.settings(), mesh or mesh_of(1)).init(seed)


def abstract_of(mesh=None):
    return Program(toy.ToyTask(), toy.settings(), mesh or mesh_of(1)).state


def filled(dir: Path, steps=(10, 20), **kw) -> Checkpoints:
    checkpoints = Checkpoints(dir, **kw)
    for step in steps:
        checkpoints.save(step, state_of(step), {"score": 1.0})
    checkpoints.close()
    return checkpoints


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dir = tmp_path_factory.mktemp("two") / "checkpoints"
    filled(dir)
    return dir


def test_round_trip_of_the_state_and_of_parts(two) -> None:
    checkpoints = Checkpoints(two)
    assert (
        checkpoints.latest() == 20
        and checkpoints.steps() == [10, 20]
        and checkpoints.best_step() is None
    )
    assert toy.same(checkpoints.restore(abstract_of()), state_of(20))
    assert toy.same(checkpoints.restore(abstract_of(), 10), state_of(10))
    for which in ("ema", "params"):
        assert toy.same(
            checkpoints.restore_params(abstract_of().params, 10, which),
            getattr(state_of(10), which),
        )
    assert checkpoints.fingerprint(10) != checkpoints.fingerprint(20)
    assert checkpoints.fingerprint(10) == Checkpoints(two).fingerprint(10)
    assert checkpoints.metrics(10) == {"score": 1.0}


@pytest.mark.parametrize(
    ("before", "after"), [((8, 4), (1, 1)), ((1, 1), (8, 4)), ((8, 4), (2, 2))]
)
def test_restores_on_another_mesh(tmp_path, before, after) -> None:
    state = state_of(1, mesh_of(*before))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    loaded = checkpoints.restore(abstract_of(mesh_of(*after)))
    assert toy.same(loaded, state)
    assert len(loaded.params["hidden"]["kernel"].sharding.device_set) == after[0]
    checkpoints.close()


def test_restores_where_none_of_the_devices_is_that_it_was_saved_on(tmp_path) -> None:
    """Written on GPUs or a pod, read on a CPU: what a checkpoint says of devices is not asked
    for."""
    state = state_of(1, mesh_of(8, 4))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.close()
    files = [*tmp_path.rglob("_sharding")]
    for file in files:
        text = file.read_text()
        moved = re.sub(r"(id[^0-9]+)(\d+)", lambda found: f"{found[1]}{int(found[2]) + 4096}", text)
        assert moved != text
        file.write_text(moved)
    manifest.write_manifest(tmp_path / "1", 1, {})
    there = Checkpoints(tmp_path)
    assert files and there.latest() == 1
    assert toy.same(there.restore(abstract_of()), state)
    assert toy.same(there.restore_params(abstract_of().params), state.ema)
    assert toy.same(there.read_params(which="params"), state.params)
    there.close()


def spoil(target: Path, kind: str, rng: np.random.Generator) -> None:
    """Damages a file as disks, kills and people do."""
    data = bytearray(target.read_bytes())
    if kind == "flip":
        bit = rng.integers(len(data) * 8)
        data[bit // 8] ^= 1 << (bit % 8)
    elif kind == "truncate":
        data = data[: rng.integers(len(data))]
    elif kind == "zero":
        start = rng.integers(len(data))
        start = start if any(data[start : start + 512]) else 0
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    elif kind == "grow":
        data += bytes(1)
    if kind == "delete":
        target.unlink()
    else:
        target.write_bytes(data)


@pytest.mark.parametrize("seed", range(50))
def test_no_damage_is_loaded_silently(tmp_path, two, seed, capsys) -> None:
    dir = tmp_path / "checkpoints"
    shutil.copytree(two, dir)
    rng = np.random.default_rng(seed)
    files = sorted(
        path for path in (dir / "20").rglob("*") if path.is_file() and path.stat().st_size
    )
    # Every tenth the manifest, which would seldom be drawn.
    target = dir / "20" / manifest.NAME if seed % 10 >= 8 else files[rng.integers(len(files))]
    kind = ("flip", "truncate", "zero", "delete", "grow", "flip", "zero")[seed % 7]
    before = target.read_bytes()
    spoil(target, kind, rng)
    assert not target.exists() or target.read_bytes() != before
    checkpoints = Checkpoints(dir)
    gone = target.name == manifest.NAME and kind == "delete"
    assert checkpoints.latest() == 10
    said = capsys.readouterr().out
    assert (
        "step 20" in said
        and "is not used" in said
        and (gone or target.name in said or "cannot be read" in said)
    )
    assert (dir / "20.damaged").is_dir() != gone
    if seed < 2:
        assert toy.same(checkpoints.restore(abstract_of()), state_of(10))
        checkpoints.save(20, state_of(21))  # the number is free again
        checkpoints.close()
        assert toy.same(Checkpoints(dir).restore(abstract_of()), state_of(21))


def test_parameters_saved_on_eight_devices_come_back_on_one(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1, mesh_of(8, 4)))
    checkpoints.close()
    plain = jax.eval_shape(lambda: toy.ToyTask().init(jax.random.key(0)))
    loaded = checkpoints.restore_params(plain)
    assert toy.same(loaded, state_of(1).ema) and loaded["hidden"]["kernel"].devices() == {
        jax.devices()[0]
    }


def test_what_a_gpu_saved_comes_back_on_a_cpu(tmp_path, two) -> None:
    """As far as can be shown without one: the devices that a checkpoint names are not asked for."""
    dir = tmp_path / "checkpoints"
    shutil.copytree(two, dir)
    named = sorted((dir / "20").glob("*/_sharding"))
    assert len(named) == 3 and all(b'id\\": 0' in file.read_bytes() for file in named)
    for file in named:
        file.write_bytes(file.read_bytes().replace(b'id\\": 0', b'id\\": 77'))
        assert b": 77" in file.read_bytes()
    manifest.write_manifest(dir / "20", 20, {})
    store = Checkpoints(dir)
    assert toy.same(store.restore(abstract_of()), state_of(20))
    assert toy.same(store.restore(abstract_of(mesh_of(8, 4))), state_of(20))
    assert toy.same(store.read_params(20, "params"), state_of(20).params)
    assert toy.same(store.restore_params(abstract_of().params), state_of(20).ema)


def test_a_half_written_step_is_not_used(tmp_path, two) -> None:
    dir = tmp_path / "checkpoints"
    shutil.copytree(two, dir)
    (dir / "20" / manifest.NAME).unlink()
    checkpoints = Checkpoints(dir)
    assert (
        checkpoints.latest() == 10 and (dir / "20").is_dir()
    )  # it may be another process that writes it
    checkpoints.save(20, state_of(21))
    checkpoints.close()
    assert toy.same(Checkpoints(dir).restore(abstract_of()), state_of(21))
    for step in ("10", "20"):
        shutil.rmtree(dir / step)
    with pytest.raises(UserError, match="no whole checkpoint"):
        Checkpoints(dir).restore(abstract_of())


def test_a_damaged_step_asked_for_by_number_is_refused(tmp_path, two) -> None:
    dir = tmp_path / "checkpoints"
    shutil.copytree(two, dir)
    (dir / "10" / "params" / "_METADATA").write_text("{}")
    with pytest.raises(UserError, match=r"step 10.*\[20\]"):
        Checkpoints(dir).restore_params(abstract_of().params, 10)


def test_where_no_score_is_finite_the_last_is_the_best(tmp_path, capsys) -> None:
    store = Checkpoints(tmp_path / "checkpoints", best=("score", "max"))
    for step in (1, 2):
        store.save(step, state_of(step), {"score": float("nan")})
    store.close()
    with finished(tmp_path, ("score", "max")) as (_, step):
        assert step == 2
    assert "no checkpoint of" in capsys.readouterr().out


def test_keeps_the_last_and_the_best(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, best=("score", "min"))
    for step, score in ((1, 5.0), (2, 1.0), (3, 4.0), (4, float("nan")), (5, 3.0)):
        checkpoints.save(step, state_of(step), {"score": score})
    checkpoints.save(6, state_of(6))
    checkpoints.close()
    assert (
        checkpoints.steps() == [2, 5, 6]
        and checkpoints.best_step() == 2
        and checkpoints.latest() == 6
    )
    checkpoints.save(6, state_of(6), {"score": 0.5})  # scores that come later
    assert checkpoints.best_step() == 6 and Checkpoints(tmp_path).metrics(6) == {"score": 0.5}
    assert toy.same(Checkpoints(tmp_path).restore(abstract_of()), state_of(6))


def test_a_checkpoint_of_another_model_is_refused(two) -> None:
    other = jax.eval_shape(lambda: {"hidden": {"kernel": np.zeros((3, 3), np.float32)}})
    with pytest.raises(UserError, match="does not fit"):
        Checkpoints(two).restore_params(other)
    shape = abstract_of().params
    shape["out"]["bias"] = jax.ShapeDtypeStruct((5,), np.float32)
    with pytest.raises(UserError, match="does not fit"):
        Checkpoints(two).restore_params(shape)


def test_an_unwritable_place_is_a_user_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
        checkpoints.save(1, state_of(1))
        checkpoints.close()


def test_a_place_without_room_is_refused_before(tmp_path, monkeypatch) -> None:
    filled(tmp_path / "checkpoints", (10,))
    left = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: left)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="A checkpoint needs 0.1 MB, and the disk"):
        checkpoints.check_place(state_of(1))
    with pytest.raises(UserError, match="checkpoint of step 20 needs.* Step 10 is kept"):
        checkpoints.save(20, state_of(20))
    checkpoints.close()
    monkeypatch.undo()
    assert Checkpoints(tmp_path / "checkpoints").latest() == 10


def test_an_unwritable_place_is_refused_before(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").check_place(state_of(1))
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
