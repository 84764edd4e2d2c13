import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.init_weights import (
    check_folder,
    check_shapes,
    check_sources,
    initial_params,
    split_entry,
)
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from tests.training import toy
from tests.weights import save_folder

INFO = {"name": "made", "network": "toy"}


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(toy.ToyTask(), toy.settings(), make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "diffusion"
    return folder, toy.run(folder, config=toy.settings(steps=2)).state


def test_nothing_named_is_nothing(program) -> None:
    assert initial_params(program, (), False, 0) is None


def test_a_stage_folder_gives_its_moving_average(program, trained, capsys) -> None:
    folder, state = trained
    assert toy.same(
        initial_params(program, (str(folder),), False, 5), jax.tree.map(jnp.asarray, state.ema)
    )
    assert f"from {folder}, step 2" in capsys.readouterr().out


def test_a_part_is_loaded_and_the_rest_is_that_of_the_seed(program, trained, capsys) -> None:
    folder, state = trained
    params = initial_params(program, (f"hidden={folder}",), False, 5)
    assert toy.same(params["hidden"], jax.tree.map(jnp.asarray, state.ema["hidden"]))
    fresh = program.init(5).params
    others = [name for name in params if name != "hidden"]
    assert others and all(toy.same(params[name], fresh[name]) for name in others)
    assert program.init(5, params).step == 0


def test_a_converted_folder_by_path_and_by_name(program, tmp_path, monkeypatch, capsys) -> None:
    given = jax.tree.map(lambda x: np.asarray(x) + np.float32(1), program.init(1).params)
    save_folder(tmp_path / "weights" / "taef2", given, INFO)
    one = initial_params(program, (str(tmp_path / "weights" / "taef2"),), False, 0)
    monkeypatch.setenv("STEDM_WEIGHTS", str(tmp_path / "weights"))
    two = initial_params(program, ("taef2",), False, 0)
    assert toy.same(one, two) and toy.same(one, jax.tree.map(jnp.asarray, given))
    with pytest.raises(UserError, match="ldm-vq-f4.*is not there.*stedm_jax.convert list"):
        initial_params(program, ("ldm-vq-f4",), False, 0)


def test_a_folder_of_several_networks(program, tmp_path, monkeypatch) -> None:
    given, weights = jax.tree.map(np.asarray, program.init(1).params), tmp_path / "weights"
    monkeypatch.setenv("STEDM_WEIGHTS", str(weights))
    with pytest.raises(UserError, match=f"convert stedm FILE --out={weights / 'stedm'}, or"):
        initial_params(program, ("stedm/generator",), False, 0)
    for name in ("autoencoder", "generator"):
        save_folder(weights / "stedm" / name, given, INFO)
    (weights / "stedm" / "convert.json").write_text("{}")
    found = initial_params(program, ("stedm/generator",), False, 0)
    assert toy.same(found, jax.tree.map(jnp.asarray, given))
    with pytest.raises(UserError, match="several networks; name one of them: .*/autoencoder, "):
        initial_params(program, ("stedm",), False, 0)


def test_a_folder_for_a_whole_network_is_refused_by_its_names_alone(program, tmp_path) -> None:
    given = jax.tree.map(np.asarray, program.init(1).params)
    save_folder(tmp_path / "whole", given, INFO)
    check_folder(program.task, str(tmp_path / "whole"), "synthesis.weights")
    save_folder(tmp_path / "part", {"hidden": given["hidden"]}, INFO)
    with pytest.raises(UserError, match=r"config\.synthesis\.weights=.*part"):
        check_folder(program.task, str(tmp_path / "part"), "synthesis.weights")


def test_what_does_not_fit_is_listed_and_a_part_has_to_be_asked_for(
    program, tmp_path, capsys
) -> None:
    whole = jax.tree.map(np.asarray, program.init(1).params)
    less = {"hidden": {"kernel": whole["hidden"]["kernel"]}, "strange": np.zeros(2, np.float32)}
    save_folder(tmp_path / "less", less, INFO)
    missing = len(flatten_dict(whole)) - 1
    with pytest.raises(UserError, match=f"{missing} missing: .*1 unknown: strange.*init_partial"):
        initial_params(program, (str(tmp_path / "less"),), False, 0)
    params = initial_params(program, (str(tmp_path / "less"),), True, 7)
    assert toy.same(params["hidden"]["kernel"], jnp.asarray(whole["hidden"]["kernel"]))
    assert toy.same(params["hidden"]["bias"], program.init(7).params["hidden"]["bias"])
    assert f"{missing} start fresh" in capsys.readouterr().out
    whole["hidden"]["kernel"] = whole["hidden"]["kernel"][:2]
    save_folder(tmp_path / "cut", whole, INFO)
    for partial in (False, True):
        with pytest.raises(UserError, match="1 of another shape: hidden/kernel"):
            initial_params(program, (str(tmp_path / "cut"),), partial, 0)


def test_sources_and_parts_that_are_not_there(program, tmp_path) -> None:
    with pytest.raises(UserError, match="neither the folder of a trained cell.*registry"):
        initial_params(program, (str(tmp_path),), False, 0)
    check_sources(())
    with pytest.raises(UserError, match="neither"):
        check_sources((f"hidden={tmp_path}",))
    with pytest.raises(UserError, match="the part 'unet', which toy does not have; its parts are"):
        initial_params(program, ("unet=taef2",), False, 0)


def test_shapes_are_compared_without_values(program, trained, tmp_path) -> None:
    given = jax.tree.map(np.asarray, program.init(1).params)
    folder, entry = tmp_path / "w", (str(tmp_path / "w"),)
    save_folder(folder, given, INFO)
    check_shapes(program.task, (*entry, f"hidden={folder}", str(trained[0])), False)
    save_folder(folder, {"hidden": given["hidden"]}, INFO)
    check_shapes(program.task, (f"hidden={folder}",), False)
    check_shapes(program.task, entry, True)
    with pytest.raises(UserError, match="missing"):
        check_shapes(program.task, entry, False)
    save_folder(folder, jax.tree.map(lambda x: np.stack([x, x]), given), INFO)
    with pytest.raises(UserError, match="of another shape: .*needed"):
        check_shapes(program.task, entry, True)
    (folder / "params.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        check_shapes(program.task, entry, False)


def test_a_workdir_may_have_an_equals_sign_in_its_path(
    program, trained, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/lr=1e-3").symlink_to(trained[0].parent)
    fresh = program.init(5).params
    for source in (
        "runs/lr=1e-3/diffusion",
        f"{tmp_path}/runs/lr=1e-3/diffusion",
        "./runs/lr=1e-3/diffusion",
    ):
        check_sources((source, f"hidden={source}"))
        whole = initial_params(program, (source,), False, 5)
        assert not toy.same(whole["hidden"], fresh["hidden"])
    part = initial_params(program, (f"hidden={source}",), False, 5)
    assert toy.same(part["hidden"], whole["hidden"])
    assert all(toy.same(part[name], fresh[name]) for name in part if name != "hidden")
    assert split_entry("/gone/lr=1/x") == ("", "/gone/lr=1/x") and split_entry("taef2") == (
        "",
        "taef2",
    )
    assert split_entry("style/encoder/=/a=b") == ("style/encoder", "/a=b")
    (tmp_path / "hidden=x").mkdir()
    assert (
        split_entry("hidden=x", ["hidden/kernel"]) == ("hidden", "x")
        and split_entry("hidden=x")[0] == ""
    )


def test_a_damaged_folder_is_refused(program, tmp_path) -> None:
    save_folder(tmp_path / "made", jax.tree.map(np.asarray, program.init(1).params), INFO)
    file = tmp_path / "made" / "params.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        initial_params(program, (str(tmp_path / "made"),), False, 0)
