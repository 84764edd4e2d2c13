"""The command, the registry, converted folders, exports."""

import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stedm_jax.common.commands import run_command
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.export_weights import Trained, export
from stedm_jax.convert.from_published import unknown_files
from stedm_jax.convert.model_card import model_card
from stedm_jax.convert.published_tables import FORMS, TABLES
from stedm_jax.convert.registry import ENTRIES, SMP_UNET, entry
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.convert.weight_files import read_tensors
from stedm_jax.models.functional import Functional
from stedm_jax.models.published_sizes import PUBLISHED, build_published
from stedm_jax.models.resnet import ResNet
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.weights_folder import is_converted, load_folder
from tests.convert.torch_zip import whole, write_zip
from tests.weights import save_folder

DATA = Path(os.environ.get("STEDM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SMALL = {"depths": (1, 1, 1, 1), "width": 8}
ALEX = {1: 0, 2: 3, 3: 6, 4: 8, 5: 10}  # slice -> number of its convolution
INFO = {"name": "small", "network": "small", "licence": "MIT"}


def random_params(network: Functional) -> dict:
    rng = np.random.default_rng(0)
    leaves = named(network.abstract)
    return nested(
        {path: rng.normal(size=leaf.shape).astype(leaf.dtype) for path, leaf in leaves.items()}
    )


def same(ours: dict, theirs: dict) -> bool:
    ours, theirs = named(ours), named(theirs)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[path], theirs[path]) for path in ours
    )


@pytest.fixture(scope="module")
def network() -> Functional:
    return Functional(lambda make: ResNet(make, **SMALL))


@pytest.fixture
def small(monkeypatch, network) -> Functional:
    """A network in place of ResNet-18."""
    monkeypatch.setattr("stedm_jax.convert.from_published.build_published", lambda name: network)
    return network


@pytest.fixture
def checkpoint(tmp_path, small) -> tuple[Path, dict]:
    params = random_params(small)
    tensors = to_torch(params) | {
        "fc.weight": np.ones((3, 64), np.float32),
        "bn1.num_batches_tracked": np.array(3),
    }
    stored = {
        name: whole(str(number), array) for number, (name, array) in enumerate(tensors.items())
    }
    return write_zip(tmp_path / "a.pth", {"state_dict": stored, "epoch": 1}), params


def run(*argv: object) -> None:
    command.main([str(each) for each in argv])


def test_entries_are_complete_and_their_builders_are_there():
    known = ENTRIES
    wanted = {
        "ldm-vq-f4",
        "ldm-kl-f4",
        "ldm-kl-f8",
        "ldm-landscape",
        "stedm",
        "lid-tcga-brca",
        "lid-tcga-brca-guided",
        "hipt-vit256",
        "swin-v2-t-imagenet",
        "mit-b2-imagenet",
        "resnet18-imagenet",
        "resnet34-imagenet",
        "resnet50-imagenet",
        "vgg16-imagenet",
        "convnext-tiny-imagenet",
        "taef2",
        "lpips-alex",
        "inception-fid",
        "uni2-h",
        "virchow2",
        "h0-mini",
    }
    assert wanted <= known.keys() and not set(command.COMMANDS) & known.keys()
    for each in known.values():
        assert each.network in {*PUBLISHED, SMP_UNET}
        assert each.license and each.source and each.what
        assert all(re.fullmatch("[0-9a-f]{8,64}", digest) for digest in each.sha256.values())
        assert each.urls.keys() <= each.sha256.keys() and not (each.gated and each.urls)
        assert all(
            url.startswith("https://") and url.endswith(file) for file, url in each.urls.items()
        )
        for pattern in (*each.ignore, *each.load_only):
            re.compile(pattern)
    assert FORMS.keys() < TABLES.keys() <= {*PUBLISHED}
    with pytest.raises(UserError, match="ldm-vq-f4"):
        entry("vq")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({each.network for each in ENTRIES.values()} - {SMP_UNET}))
def test_networks_can_be_described(name):
    assert jax.tree.leaves(build_published(name).abstract)


def test_convert_and_read_back(tmp_path, checkpoint, small, capsys):
    path, params = checkpoint
    out = tmp_path / "new" / "out"
    run("resnet18-imagenet", path, f"--out={out}")
    assert is_converted(out)
    found, info = load_folder(out)
    assert same(found, params)
    assert info["files"] == {"a.pth": sha256_of(path)} and info["left_out"] == {
        "bn1": 1,
        "epoch": 1,
        "fc": 1,
    }
    assert info["loaded"] == len(named(params)) and info["not_loaded"] == []
    assert {each.name for each in out.parent.iterdir()} == {"out"}
    assert "license" in capsys.readouterr().out
    with pytest.raises(UserError, match="--force"):
        run("resnet18-imagenet", path, f"--out={out}")
    before = sha256_of(out / "convert.json")
    run("resnet18-imagenet", path, f"--out={out}", "--force")
    assert sha256_of(out / "convert.json") == before


def test_only_a_part_is_loaded_when_asked_for(tmp_path, checkpoint):
    path, params = checkpoint
    run("resnet18-imagenet", path, f"--out={tmp_path / 'o'}", "--load_only=^conv1,^bn1")
    found, info = load_folder(tmp_path / "o")
    assert set(found) == {"conv1", "bn1"} and "layer1/0/conv1/kernel" in info["not_loaded"]
    for bad, part in (
        ("--load_only=(", "regular expression"),
        ("--load_only=^nothing", "fits no parameter"),
    ):
        with pytest.raises(UserError, match=part):
            run("resnet18-imagenet", path, f"--out={tmp_path / 'p'}", bad)
    assert not (tmp_path / "p").exists()


def test_what_does_not_fit_leaves_nothing_behind(tmp_path, checkpoint):
    save_file(
        {"conv1.weight": np.zeros((8, 3, 7, 7), np.float32), "x": np.zeros(1)},
        tmp_path / "b.safetensors",
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="missing.*unexpected: x"):
        run("resnet18-imagenet", tmp_path / "b.safetensors", f"--out={tmp_path / 'o'}")
    assert sorted(tmp_path.iterdir()) == before


def test_force_replaces_nothing_but_our_own(tmp_path, checkpoint):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    for flags in ((), ("--force",)):
        with pytest.raises(UserError, match="home"):
            run("resnet18-imagenet", checkpoint[0], f"--out={tmp_path / 'home'}", *flags)
    assert (tmp_path / "home" / "thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    run("resnet18-imagenet", checkpoint[0], f"--out={tmp_path / 'empty'}")


@pytest.mark.parametrize("format", ("ours", "published"))
def test_export_is_exact(tmp_path, small, format):
    params, out = random_params(small), tmp_path / "o"
    card = {
        "title": "A net",
        "patients": {"train": 5, "test": 2},
        "tiles": {"train": 50},
        "metrics": {"iou": 0.5},
    }
    trained = Trained({"model": params}, "resnet", card, "those of a package")
    export(trained, out, format)
    if format == "ours":
        found = load_folder(out)[0]
    else:
        found = from_torch(read_tensors(out), small.abstract)
        assert "layer1.0.conv1.weight" in read_tensors(out)
    assert same(found, params)
    text = (out / "README.md").read_text()
    for part in (
        "# A net",
        "| train | 5 | 50 |",
        "| test | 2 | unknown |",
        "| iou | 0.5 |",
        "License",
        "Limits",
        "Intended use",
    ):
        assert part in text
    with pytest.raises(UserError, match="--force"):
        export(trained, out)


def test_export_of_several_parts(tmp_path, small):
    params = random_params(small)
    for format in ("ours", "published"):
        trained = Trained({"unet": params, "style": params}, "n", {}, "those of a package")
        export(trained, tmp_path / format, format)
    assert set(load_folder(tmp_path / "ours")[0]) == {"unet", "style"}
    assert {"unet.safetensors", "style.safetensors"} <= {
        each.name for each in (tmp_path / "published").iterdir()
    }


def test_export_command_of_a_converted_folder(tmp_path, checkpoint):
    run("resnet18-imagenet", checkpoint[0], f"--out={tmp_path / 'o'}")
    run(
        "export",
        tmp_path / "o",
        f"--out={tmp_path / 'e'}",
        "--format=published",
        "--licence=Apache-2.0",
    )
    card = (tmp_path / "e" / "README.md").read_text()
    assert "Apache-2.0" in card and "its publisher" in card and "counted below" not in card
    with pytest.raises(UserError, match="converted already"):
        run("resnet18-imagenet", tmp_path / "o", f"--out={tmp_path / 'x'}")
    run("resnet18-imagenet", tmp_path / "e", f"--out={tmp_path / 'again'}")
    assert same(load_folder(tmp_path / "again")[0], checkpoint[1])
    with pytest.raises(UserError, match="no trained stage"):
        run("export", tmp_path, f"--out={tmp_path / 'x'}")


def test_a_card_says_what_is_unknown():
    text = model_card({}, {}, "net")
    assert "not stated" in text and "Patients: unknown" in text and "None recorded" in text


def test_errors_are_one_paragraph(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["convert", "taef2", str(tmp_path / "no"), f"--out={tmp_path / 'o'}"]
    )
    with pytest.raises(SystemExit) as caught:
        run_command(command.main)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("\nerror: ") and len(text.strip().splitlines()) == 1 and "no" in text


def test_list_names_every_entry(capsys):
    run("list")
    text = capsys.readouterr().out
    assert all(name in text for name in ENTRIES)


@pytest.mark.data
@pytest.mark.parametrize(
    "name, folder, count", (("taef2", "taef2", 2_677_027), ("lpips-alex", "lpips", 2_470_848))
)
def test_files_beside_the_repository(tmp_path, name, folder, count):
    """They are known by their checksums, fit whole, and come back exactly from an export."""
    path = DATA.parent / "weights" / folder
    if not path.is_dir():
        pytest.skip(f"needs weights/{folder} beside {DATA}; set STEDM_DATA")
    run(name, path, f"--out={tmp_path / 'o'}")
    params, info = load_folder(tmp_path / "o")
    assert info["parameters"] == count and info["not_loaded"] == [] and info["left_out"] == {}
    assert not unknown_files(entry(name), info)
    run("export", tmp_path / "o", f"--out={tmp_path / 'e'}", "--format=published")
    run(name, tmp_path / "e", f"--out={tmp_path / 'again'}")
    assert same(load_folder(tmp_path / "again")[0], params)
    if name == "taef2":
        for file in ("taef2_encoder.safetensors", "taef2_decoder.safetensors"):
            assert same(load_file(tmp_path / "e" / file), load_file(path / file))


def exported(tmp_path: Path, network: str) -> tuple[dict, Path]:
    """Random weights of a network of the registry, and where they are exported under the published
    names."""
    params = random_params(build_published(network))
    save_folder(tmp_path / "o", params, {"name": network, "network": network})
    run("export", tmp_path / "o", f"--out={tmp_path / 'e'}", "--format=published")
    return params, tmp_path / "e"


def test_lpips_goes_out_as_its_package_has_it(tmp_path):
    params, out = exported(tmp_path, "lpips-alex")
    state = load_file(out / "lpips_alex.safetensors")
    slices = [
        f"net.slice{n}.{layer}.{kind}" for n, layer in ALEX.items() for kind in ("weight", "bias")
    ]
    heads = [f"{name}.model.1.weight" for i in range(5) for name in (f"lin{i}", f"lins.{i}")]
    assert sorted(state) == sorted([*slices, *heads, "scaling_layer.shift", "scaling_layer.scale"])
    kernel = np.asarray(params["net"]["slice2"]["3"]["kernel"])
    np.testing.assert_array_equal(state["net.slice2.3.weight"], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(state["lins.4.model.1.weight"], state["lin4.model.1.weight"])
    np.testing.assert_allclose(state["scaling_layer.scale"].ravel(), (0.458, 0.448, 0.450))
    assert state["scaling_layer.shift"].shape == (1, 3, 1, 1) and state[
        "lin0.model.1.weight"
    ].shape == (1, 64, 1, 1)
    run("lpips-alex", out, f"--out={tmp_path / 'again'}")
    assert same(load_folder(tmp_path / "again")[0], params)


def test_taef2_goes_out_as_the_two_files_of_its_package(tmp_path):
    params, out = exported(tmp_path, "taef2")
    assert sorted(each.name for each in out.glob("*.safetensors")) == [
        "taef2_decoder.safetensors",
        "taef2_encoder.safetensors",
    ]
    encoder, decoder = (
        load_file(out / f"taef2_{part}.safetensors") for part in ("encoder", "decoder")
    )
    assert {"0.weight", "1.conv.0.bias", "14.weight"} <= encoder.keys() and encoder[
        "0.weight"
    ].shape == (64, 3, 3, 3)
    assert {"1.weight", "3.pool.0.weight", "19.bias"} <= decoder.keys() and decoder[
        "19.bias"
    ].shape == (3,)
    run("taef2", out, f"--out={tmp_path / 'again'}")
    assert same(load_folder(tmp_path / "again")[0], params)


def test_another_network_is_known_as_such(tmp_path):
    save_file({"a.weight": np.zeros((2, 2), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="at all: none of their names.*unexpected: a.weight"):
        run("lpips-alex", tmp_path / "a.safetensors", f"--out={tmp_path / 'o'}")
    with pytest.raises(UserError, match="There is no folder"):
        run("export", tmp_path / "nothing", f"--out={tmp_path / 'o'}")


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    text = capsys.readouterr().out
    assert all(part in text for part in ("--weights", "--key", "--load_only", "download", "export"))
