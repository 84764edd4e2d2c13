"""A whole smp.Unet of somebody's training: recognized, converted, exported."""

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.smp_unet import advice, recognized
from stedm_jax.convert.torch_names import to_torch, torch_name, torch_shape
from stedm_jax.convert.weight_files import read_tensors
from stedm_jax.models import mit
from stedm_jax.models.named_networks import SEGMENTER_ENCODERS
from stedm_jax.models.published_sizes import build_published, unet_name
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.weights_folder import load_folder
from tests.convert.torch_zip import Call, Named, whole, write_zip

SMALL = {"classes": 3, "decoder": (8, 8, 4, 4, 4)}
SLOW = ("mit_b4", "mit_b5")


def shapes(encoder):
    """Names in smp and arrays of these shapes, which take no memory."""
    name, found = unet_name(encoder), {}
    for path, leaf in named(build_published(name, **SMALL).abstract).items():
        key, layout = torch_name(path, len(leaf.shape), tables(name)[0])
        found[key] = np.broadcast_to(np.float32(0), torch_shape(leaf.shape, layout))
    return found


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in SEGMENTER_ENCODERS
        if name != "mit"
    ],
)
def test_each_encoder_is_recognized_with_decoder_and_classes(encoder):
    tensors = shapes(encoder) | {"encoder.bn1.num_batches_tracked": np.array(3)}
    assert recognized(tensors, "a.ckpt") == (unet_name(encoder), SMALL)


def test_what_is_no_unet_of_ours_is_refused():
    tensors = shapes("resnet18")
    with pytest.raises(UserError, match="a.ckpt holds no smp.Unet with an encoder"):
        recognized({"fc.weight": np.ones(3)}, "a.ckpt")
    tensors["encoder.layer4.5.conv1.weight"] = np.ones((512, 512, 3, 3))
    with pytest.raises(UserError, match="of the kind resnet, but none of resnet18, resnet34"):
        recognized(tensors, "a.ckpt")


def test_a_network_with_a_sigmoid_is_pointed_out():
    info = {"classes": 1, "decoder": [8, 4]}
    assert "one class with a sigmoid" in advice("unet-resnet18", info)
    assert "note" not in advice("unet-resnet18", info | {"classes": 2})


@pytest.fixture
def tiny(monkeypatch):
    """MiT-B0 of smaller sizes."""
    sizes = {"widths": (4, 8), "depths": (1, 1), "heads": (1, 1), "reductions": (2, 1)}
    monkeypatch.setitem(mit.SIZES, "mit_b0", sizes)


def test_a_lightning_checkpoint_goes_in_and_out(tmp_path, tiny, capsys):
    network = build_published("unet-mit-b0", classes=3, decoder=(8, 4, 4))
    rng = np.random.default_rng(0)
    leaves = named(network.abstract).items()
    params = nested({path: rng.random(leaf.shape, np.float32) for path, leaf in leaves})
    theirs = to_torch(params)
    tensors = {f"_model.{name}": value for name, value in theirs.items()}
    stored = {name: whole(str(i), value) for i, (name, value) in enumerate(tensors.items())}
    checkpoint = {
        "state_dict": stored,
        "optimizer_states": [{"state": {0: {"exp_avg": whole("x", np.ones(3, np.float32))}}}],
        "hyper_parameters": Call(Named("omegaconf.dictconfig", "DictConfig")),
    }
    file = write_zip(tmp_path / "last.ckpt", checkpoint)
    out = tmp_path / "out"
    command.main(["stedm-segmenter", str(file), f"--out={out}"])
    found, info = load_folder(out)
    assert info["network"] == "unet-mit-b0" and not info["not_loaded"]
    says = "decoder=(8, 4, 4), norm='batch'; config.data.groups: 3, in the file's order"
    assert says in capsys.readouterr().out
    assert all(np.array_equal(named(found)[path], leaf) for path, leaf in named(params).items())
    command.main(["export", str(out), f"--out={tmp_path / 'e'}", "--format=published"])
    back = read_tensors(tmp_path / "e")
    assert set(back) == set(theirs)
    assert all(np.array_equal(back[name], theirs[name]) for name in theirs)


@pytest.mark.parity
@pytest.mark.parametrize("encoder", ["mit_b0", "resnet18", "tu-convnext_tiny"])
def test_what_smp_saves_is_read_and_given_back(tmp_path, encoder):
    from tests import peers

    smp, torch = peers.peer("segmentation_models_pytorch"), peers.torch
    model = smp.Unet(encoder, encoder_weights=None, classes=4, decoder_channels=(16, 16, 8, 8, 8))
    peers.randomise(model)
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, file)
    command.main(["smp-unet", str(file), f"--out={tmp_path / 'o'}"])
    command.main(["export", str(tmp_path / "o"), f"--out={tmp_path / 'e'}", "--format=published"])
    theirs, back = peers.state_of(model), read_tensors(tmp_path / "e")
    assert set(back) == {name for name in theirs if not name.endswith("num_batches_tracked")}
    for name, value in back.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
