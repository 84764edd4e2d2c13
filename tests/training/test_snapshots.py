"""Tracks in a training, their snapshots, and averages of other widths made from them."""

import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import SafetensorError

from stedm_jax.common.errors import UserError
from stedm_jax.ema import main
from stedm_jax.experiment.init_weights import initial_params
from stedm_jax.training.param_paths import named
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from stedm_jax.training.snapshots import combine, sound_steps
from stedm_jax.training.weights_folder import load_folder
from tests.training import toy
from tests.training.test_loop import Killed

EMA = dict(decay=0.9, tracks=(0.05, 0.10), snapshot_every=4)
ALL = toy.settings(
    accumulate=2,
    batch=16,
    freeze=("hidden/bias",),
    ema=EMA,
    optimizer={"groups": (("out/.*", 3.0),)},
)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in (folder / "snapshots").rglob("*")
        if p.is_file()
    }


def wide(start: int):
    while True:
        yield toy.batch_at(start, 16)
        start += 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, toy.run(folder, config=ALL, batches=wide, devices=8, fsdp=4)


@pytest.mark.parametrize("stopped_after", [7, 8])
@pytest.mark.parametrize("politely", [False, True])
def test_with_everything_on_ten_steps_equal_five_and_five_bit_for_bit(
    tmp_path, whole, stopped_after: int, politely: bool
) -> None:
    """Step 8 has a snapshot: made, or not yet, or made again after step 5, or when asked to stop
    there."""
    folder, expected = whole

    def batches(start: int):
        for number, batch in enumerate(wide(start), 1):
            if number == stopped_after and politely:
                os.kill(os.getpid(), signal.SIGTERM)
            if number > stopped_after and not politely:
                raise Killed
            yield batch

    with pytest.raises(SystemExit if politely else Killed):
        toy.run(tmp_path, config=ALL, batches=batches, devices=8, fsdp=4)
    assert sound_steps(tmp_path / "snapshots") == ([4, 8] if stopped_after == 8 else [4])
    (tmp_path / "snapshots" / ".9.partial-1").mkdir()
    again = toy.run(tmp_path, config=ALL, batches=wide, devices=8, fsdp=4)
    assert toy.same(again.state, expected.state)
    assert sound_steps(tmp_path / "snapshots") == [4, 8, 10] and files(tmp_path) == files(folder)


def test_tracks_are_cut_as_parameters_are_and_keep_nothing_that_stays(whole) -> None:
    state = whole[1].state
    assert set(state.tracks) == {"0.05", "0.1"}
    for track in state.tracks.values():
        assert track["hidden"]["kernel"].sharding == state.params["hidden"]["kernel"].sharding
        assert (
            set(named(track))
            == set(named(state.params))
            == {"hidden/kernel", "out/kernel", "out/bias"}
        )


def test_a_track_comes_back_as_it_was_and_weights_are_whole(whole) -> None:
    folder, result = whole
    made = combine(folder, 0.05)
    assert (made.step, made.snapshots) == (10, 3) and made.error < 1e-6
    for path, leaf in named(jax.device_get(result.state.tracks["0.05"])).items():
        np.testing.assert_allclose(named(made.params)[path], leaf, rtol=1e-6, atol=1e-9)
    assert toy.same(made.params["hidden"]["bias"], result.state.still["hidden"]["bias"])


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory):
    """(a stage with snapshots of two widths, the same training with three others as tracks)."""
    folder = tmp_path_factory.mktemp("long")
    optimizer = {"schedule": "constant"}
    changes = dict(steps=80, checkpoint_every=0, log_every=80, optimizer=optimizer)
    toy.run(folder, config=toy.settings(**changes, ema=EMA))
    direct = toy.settings(
        **changes, ema=dict(decay=0.0, tracks=(0.03, 0.07, 0.15), snapshot_every=0)
    )
    return folder, toy.run(folder.parent / "direct", config=direct).state


@pytest.mark.parametrize(("width", "most"), [(0.03, 0.01), (0.07, 0.002), (0.15, 0.004)])
def test_a_combination_is_the_track_of_that_width(long, width: float, most: float) -> None:
    """To a share of what the average changes of the last weights."""
    folder, direct = long
    made, wanted = (
        named(combine(folder, width).params),
        named(jax.device_get(direct.tracks[str(width)])),
    )
    last = named(jax.device_get(direct.params))
    off = np.sqrt(sum(np.sum((made[path] - wanted[path]) ** 2) for path in wanted))
    moved = np.sqrt(sum(np.sum((last[path] - wanted[path]) ** 2) for path in wanted))
    print(f"width {width}: {off / moved:.2e} of what the average changes")
    assert off < most * moved


def test_the_command_writes_weights_to_start_from(long, tmp_path, capsys) -> None:
    folder, direct = long
    out = tmp_path / "wide"
    main([str(folder), "--sigma_rel=0.07", f"--out={out}"])
    assert "relative width 0.07 at step 80 from 20 snapshots" in capsys.readouterr().out
    params, info = load_folder(out)
    assert (
        toy.same(params, combine(folder, 0.07).params)
        and info["sigma_rel"] == 0.07
        and info["step"] == 80
    )
    program = Program(toy.ToyTask(), toy.settings(), make_mesh(devices=jax.devices()[:1]))
    assert toy.same(initial_params(program, (str(out),), False, 0), params)
    main([str(folder), "--sigma_rel=0.07", "--step=40", f"--out={tmp_path / 'early'}"])
    assert not toy.same(load_folder(tmp_path / "early")[0], params)
    with pytest.raises(UserError, match="exists"):
        main([str(folder), "--sigma_rel=0.07", f"--out={out}"])


def test_what_cannot_be_combined_is_refused(long, whole, tmp_path, capsys) -> None:
    folder, _ = long
    for width, message in (
        (0.3, "no relative width"),
        (0.28, r"off. With them widths from 0.0\d+ to 0.2\d+ can be"),
    ):
        with pytest.raises(UserError, match=message):
            combine(folder, width)
    with pytest.raises(UserError, match="no snapshot of step 41; those there are of steps 4, 8"):
        combine(folder, 0.07, 41)
    with pytest.raises(UserError, match=r"no snapshots.*train\.ema\.tracks"):
        combine(tmp_path, 0.07)
    assert not list(tmp_path.iterdir())
    stage = tmp_path / "stage"
    shutil.copytree(whole[0], stage)
    file = stage / "snapshots" / "8" / "track-0.05.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert combine(stage, 0.1).snapshots == 2
    assert (
        "snapshots/8 is not used: track-0.05.safetensors has other contents"
        in capsys.readouterr().out
    )


def test_a_disk_that_is_full_leaves_no_half_snapshot(tmp_path, whole, monkeypatch) -> None:
    def full(arrays, file):
        file.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    def first(start: int):
        for step, batch in enumerate(wide(start), start + 1):
            if step == 8:
                monkeypatch.setattr("stedm_jax.training.snapshots.save_file", full)
            yield batch

    with pytest.raises(UserError, match="No space left.*Make room"):
        toy.run(tmp_path, config=ALL, batches=first, devices=8, fsdp=4)
    assert [p.name for p in (tmp_path / "snapshots").iterdir()] == ["4"]
    monkeypatch.undo()
    assert toy.same(
        toy.run(tmp_path, config=ALL, batches=wide, devices=8, fsdp=4).state, whole[1].state
    )
    assert files(tmp_path) == files(whole[0])
