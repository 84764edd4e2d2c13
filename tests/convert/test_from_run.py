"""Stages of a run as exported weights."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.from_run import read_run
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.tables import convnext
from stedm_jax.convert.torch_names import from_torch
from stedm_jax.convert.weight_files import read_tensors
from stedm_jax.models.fcn8s import Fcn8s
from stedm_jax.models.functional import Functional
from stedm_jax.models.segmenter import Segmenter
from stedm_jax.models.vgg import pool
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.state import TrainState
from stedm_jax.training.weights_folder import load_folder

LDM = {"ldm.real": 1.0, "ldm.stain_jitter": 0.0, "ldm.network": "ldm"}
UNET = {
    "input_blocks": {"0": {"0": {"kernel": jnp.ones((3, 3, 6, 4))}}},
    "middle_block": {"1": {"qkv": {"kernel": jnp.ones((4, 12))}}},
    "style_block": {"in_layers": {"2": {"kernel": jnp.ones((3, 3, 4, 4))}}},
}
DIFFUSION = {
    "unet": UNET,
    "layout": {"kernel": jnp.ones((2, 3))},
    "style": {"encoder": {"head": {"bias": jnp.ones(4)}}},
}
AUTOENCODER = {
    "encoder": {"conv_in": {"kernel": jnp.ones((3, 3, 3, 4))}},
    "discriminator": {"main": {"kernel": jnp.ones((4, 4, 3, 4))}},
}
DECODER = (16, 16, 8, 8, 8)
FCN8S = {"widths": (8,) * 5, "hidden": 24}
MODEL = "autoencoder.model."
CONFIG = {
    "format": 2,
    "name": "made",
    "title": "",
    "data.tiles": "{workdir}/data/tiles",
    "diffusion.train.steps": 7,
    f"{MODEL}kind": "vq",
    f"{MODEL}channels": 128,
    f"{MODEL}multipliers": [1, 1],
    f"{MODEL}res_blocks": 1,
    f"{MODEL}latent_channels": 3,
    f"{MODEL}codes": 16,
    f"{MODEL}attention": True,
}


def stage(workdir: Path, name: str, params: dict) -> Path:
    """A stage that has finished; the moving average is twice the parameters."""
    ema = {name: jax_double(tree) for name, tree in params.items()}
    store = Checkpoints(workdir / name / "checkpoints")
    store.save(
        7, TrainState(step=jnp.int32(7), params=params, ema=ema, opt_state={"n": jnp.ones(1)})
    )
    store.close()
    return workdir / name


def jax_double(tree):
    return (
        {name: jax_double(leaf) for name, leaf in tree.items()}
        if isinstance(tree, dict)
        else 2 * tree
    )


@pytest.fixture
def workdir(tmp_path) -> Path:
    path = tmp_path / "run"
    (path / "data" / "tiles").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    manifest = {"name": "tiles", "mpp": 0.5, "tile": 64, "classes": [{"name": "tumour"}]}
    manifest |= {
        "patients": {"train": ["a", "b"], "test": ["c"]},
        "records": {"train": 9, "test": 4},
    }
    (path / "data" / "tiles" / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_a_generator_in_both_formats(tmp_path, workdir):
    folder = stage(workdir, "generator/stedm", DIFFUSION)
    command.main(["export", str(folder), f"--out={tmp_path / 'ours'}"])
    params, info = load_folder(tmp_path / "ours")
    assert set(params) == {"unet", "layout", "style"} and info["card"]["patients"] == {
        "train": 2,
        "test": 1,
    }
    np.testing.assert_array_equal(params["layout"]["kernel"], 2)  # the moving average
    command.main(["export", str(folder), f"--out={tmp_path / 'theirs'}", "--format=published"])
    state = read_tensors(tmp_path / "theirs" / "stedm.safetensors")
    for top in ("_model.model", "model.model"):  # the style block is the second of the middle
        middle = f"{top}.diffusion_model.middle_block"
        assert state[f"{middle}.2.qkv.weight"].shape == (12, 4, 1)
        assert state[f"{middle}.1.block.in_layers.2.weight"].shape == (4, 4, 3, 3)
    assert state["model.model_ema.diffusion_modelmiddle_block1blockin_layers2weight"].max() == 2
    assert state["_model.model_ema.num_updates"] == 7
    assert state["model.cond_stage_model.channel_mapper.weight"].shape == (3, 2, 1, 1)
    assert state["_model._agg_block._embedder.head.bias"].shape == (4,)
    np.testing.assert_allclose(state["model.betas"][[0, -1]], (0.0015, 0.0205), rtol=1e-5)
    text = (tmp_path / "theirs" / "README.md").read_text()
    assert "without the first stage: there is none here" in text
    assert "| train | 2 | 9 |" in text and "classes: tumour" in text and "- mpp: 0.5" in text
    with pytest.raises(UserError, match="an autoencoder of the kind"):
        command.main(["export", str(folder), f"--out={tmp_path / 'x'}", "--format=diffusers"])


def test_an_autoencoder_goes_without_its_discriminator(tmp_path, workdir):
    run = read_run(stage(workdir, "autoencoder", AUTOENCODER))
    assert set(run.parts["model"]) == {"encoder"} and run.card["stage"] == "autoencoder"
    assert run.diffusers[1]["_class_name"] == "VQModel"


def test_what_is_no_stage_is_refused_with_what_there_is(tmp_path, workdir):
    stage(workdir, "generator/stedm", DIFFUSION)
    with pytest.raises(UserError, match="Name one of .*generator/stedm"):
        read_run(workdir)
    with pytest.raises(UserError, match="no folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="no trained stage"):
        read_run(tmp_path)
    (workdir / "autoencoder" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="no whole checkpoint"):
        read_run(workdir / "autoencoder")


@pytest.fixture
def trained(workdir, monkeypatch):
    """Makes a stage that has finished with the given parameters, without writing them; gives its
    folder."""

    def make(name: str, params: dict, **settings: object) -> Path:
        (workdir / name / "checkpoints").mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(CONFIG | settings))
        store = SimpleNamespace(read_params=lambda step: params, fingerprint=lambda step: "abc")
        monkeypatch.setattr(
            "stedm_jax.convert.from_run.finished", lambda *_: nullcontext((store, 7))
        )
        return workdir / name

    return make


def random_params(network: Functional) -> dict:
    rng, leaves = np.random.default_rng(0), named(network.abstract)
    return nested({path: 0.1 * rng.random(leaf.shape, np.float32) for path, leaf in leaves.items()})


def publish(folder: Path, out: Path) -> str:
    """Exports a stage under the published names; its card."""
    command.main(["export", str(folder), f"--out={out}", "--format=published"])
    return (out / "README.md").read_text()


def segmenter_settings(**model: object) -> dict[str, object]:
    plain = {"kind": "unet", "encoder": "mit", "norm": "batch", "decoder": DECODER}
    return {f"segmentation.model.{key}": value for key, value in (plain | model).items()}


def test_an_fcn8s_has_the_names_and_shapes_of_vgg16(tmp_path, trained, capsys):
    """Its two wide convolutions are linear layers there."""
    network = Functional(lambda make: Fcn8s(make, classes=3, **FCN8S))
    params = random_params(network)
    settings = segmenter_settings(
        kind="fcn8s", encoder="convnext_tiny"
    )  # which this kind does not read
    card = publish(trained("segmentation/labelled/0", params, **settings), tmp_path / "o")
    state = read_tensors(tmp_path / "o")
    assert state["classifier.0.weight"].shape == (24, 8 * 49) and state[
        "classifier.3.weight"
    ].shape == (24, 24)
    assert state["features.28.weight"].shape == (8, 8, 3, 3) and state["score_fr.weight"].shape == (
        3,
        24,
        1,
        1,
    )
    kernel = params["classifier"]["0"]["kernel"]
    np.testing.assert_array_equal(
        state["classifier.0.weight"].reshape(24, 8, 7, 7)[5, 3], kernel[:, :, 3, 5]
    )
    back = named(from_torch(state, network.abstract, tables("vgg16-fcn8s")[0]))
    assert all(np.array_equal(back[path], leaf) for path, leaf in named(params).items())
    assert "torchvision's vgg16" in card and "torchvision's vgg16" in capsys.readouterr().out


def test_a_taef2_goes_out_in_two_files(tmp_path, trained):
    params = {
        "encoder": {"0": {"kernel": np.ones((3, 3, 3, 4))}},
        "decoder": {"1": {"bias": np.ones(4)}},
    }
    folder = trained("autoencoder", params, **{f"{MODEL}kind": "taef2"})
    publish(folder, tmp_path / "o")
    assert {each.name for each in (tmp_path / "o").glob("*.safetensors")} == {
        "taef2_encoder.safetensors",
        "taef2_decoder.safetensors",
    }
    assert list(read_tensors(tmp_path / "o" / "taef2_decoder.safetensors")) == ["1.bias"]
    with pytest.raises(UserError, match="kind vq or kl"):
        command.main(["export", str(folder), f"--out={tmp_path / 'x'}", "--format=diffusers"])


def test_a_basis_goes_out_under_our_names_alone(tmp_path, trained):
    basis = np.ones((4, 2, 2), np.float32)
    folder = trained("autoencoder", {"basis": basis}, **{f"{MODEL}kind": "haar"})
    command.main(["export", str(folder), f"--out={tmp_path / 'o'}"])
    np.testing.assert_array_equal(load_folder(tmp_path / "o")[0]["basis"], basis)
    with pytest.raises(UserError, match="no published names"):
        command.main(["export", str(folder), f"--out={tmp_path / 'x'}", "--format=published"])


@pytest.mark.parametrize(
    "model, part",
    (
        ({"encoder": "resnet34"}, "smp.Unet('resnet34', decoder_channels=(16, 16, 8, 8, 8))"),
        ({"encoder": "convnext_base"}, "smp.Unet('tu-convnext_base', "),
        ({"encoder": "mit_b5"}, "smp.Unet('mit_b5', "),
        (
            {
                "widths": [64, 128, 320, 512],
                "depths": [3, 4, 6, 3],
                "heads": [1, 2, 5, 8],
                "reductions": [8, 4, 2, 1],
            },
            "smp.Unet('mit_b2', ",
        ),
        ({"widths": [8, 8]}, "MiT of sizes that smp has not"),
        ({"encoder": "resnet18", "norm": "group"}, "group norms, which smp does not have"),
    ),
)
def test_the_card_says_what_the_names_are_of(tmp_path, trained, model, part):
    params = {"encoder": {"stages": {"0": {"norm": {"scale": np.ones(3)}}}}}
    folder = trained("segmentation/labelled/0", params, **segmenter_settings(**model))
    assert part in publish(folder, tmp_path / "o")


@pytest.mark.parametrize(
    ("network", "changes", "part"),
    (
        ("model", [], "smp.Unet('mit_b1', "),
        ("resnet18-unet", [], "smp.Unet('resnet18', "),
        ("model", [["model.encoder", "resnet34"]], "smp.Unet('resnet34', "),
        ("vgg16-fcn8s", [], "torchvision's vgg16, with score_fr"),
        ("vgg16-fcn8s", [["model.fcn8s.hidden", 8]], "of other widths"),
        ("dcan", [], "a contour-aware network"),
    ),
)
@pytest.mark.parametrize(
    ("section", "cell"),
    (("segmentation.arms.an-arm", "segmentation/an-arm/0"), ("segmentation.judge", "judge")),
)
def test_the_card_is_about_the_network_of_the_arm(
    tmp_path, trained, network, changes, part, section, cell
):
    params = {"encoder": {"stages": {"0": {"norm": {"scale": np.ones(3)}}}}}
    settings = segmenter_settings(encoder="mit_b1") | {
        f"{section}.network": network,
        f"{section}.changes": changes,
        f"{section}.real": 1.0,
        f"{section}.stain_jitter": 0.5,
    }
    assert part in publish(trained(cell, params, **settings), tmp_path / "o")


def test_the_card_names_the_stain_also_where_the_tiles_are_gone(tmp_path, trained):
    params = {"encoder": {"stages": {"0": {"norm": {"scale": np.ones(3)}}}}}
    folder = trained("segmentation/labelled/0", params, **segmenter_settings(encoder="mit_b1"))
    assert "brought to one stain" not in publish(folder, tmp_path / "a")
    (folder.parents[2] / "segmenters.json").write_text(json.dumps({"stain": {"kind": "reinhard"}}))
    assert "brought to one stain (--stain_norm=reinhard" in publish(folder, tmp_path / "b")


def test_a_head_has_no_published_names(tmp_path, trained):
    arm = {f"segmentation.arms.{name}": value for name, value in LDM.items()}
    folder = trained("segmentation/ldm/0", {"head": {"kernel": np.ones(3)}}, **arm)
    with pytest.raises(
        UserError, match="a head on features.*has no published names; give --format=ours"
    ):
        publish(folder, tmp_path / "o")


def test_an_encoder_that_learned_without_labels_keeps_all_its_parts(trained):
    params = {"backbone": {"cls_token": np.ones(3)}, "head": {"kernel": np.ones(3)}}
    run = read_run(trained("ssl", params))
    assert (
        run.network == "stage ssl of stedm_jax" and not run.loads and set(run.parts) == set(params)
    )


def test_what_the_configuration_does_not_describe_is_refused(trained, workdir):
    with pytest.raises(UserError, match="segmentation.arms has no 'gone'"):
        read_run(trained("segmentation/gone/0", {}))
    with pytest.raises(UserError, match="latents is no stage that trains"):
        read_run(trained("latents", {}))
    (workdir / "config.json").write_text(json.dumps(CONFIG | {"format": 1}))
    with pytest.raises(UserError, match="made by stedm_jax 0.1"):
        read_run(workdir / "latents")


@pytest.mark.parity
@pytest.mark.parametrize(
    "encoder, peer",
    (
        ("mit_b0", "mit_b0"),
        ("resnet18", "resnet18"),
        ("convnext_tiny", "tu-convnext_tiny"),
        pytest.param("resnet50", "resnet50", marks=pytest.mark.slow),
    ),
)
def test_smp_loads_every_family_of_segmenters(tmp_path, trained, encoder, peer):
    """Strictly, and with the same output."""
    from tests import peers

    smp, torch = peers.peer("segmentation_models_pytorch"), peers.torch
    from safetensors.torch import load_file

    network = Functional(
        lambda make: Segmenter(make, classes=2, encoder=encoder, norm="batch", decoder=DECODER)
    )
    theirs = smp.Unet(peer, encoder_weights=None, classes=2, decoder_channels=DECODER)
    params = peers.mapped(
        peers.randomise(theirs), network, convnext.TABLE if "convnext" in encoder else ()
    )
    want = peers.state_of(theirs)
    card = publish(
        trained("segmentation/labelled/0", params, **segmenter_settings(encoder=encoder)),
        tmp_path / "o",
    )
    assert f"smp.Unet('{peer}'" in card
    state = load_file(tmp_path / "o" / "model.safetensors")
    for name, value in state.items():
        np.testing.assert_array_equal(value.numpy(), want[name], err_msg=name)
    peers.randomise(theirs, seed=1)
    theirs.load_state_dict(state)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = peers.from_torch_image(theirs.eval()(peers.to_torch_image(image)))
    assert peers.relative_error(jax.jit(network.apply)(params, image), expected) < peers.TOLERANCE


@pytest.mark.parity
def test_torchvision_loads_an_exported_fcn8s(tmp_path, trained):
    """All of vgg16 but its last layer, which FCN-8s does not have."""
    from tests import peers

    vgg, torch = peers.peer("torchvision.models").vgg, peers.torch
    from safetensors.torch import load_file

    plan = [8, 8, "M", 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M"]
    theirs = vgg.VGG(vgg.make_layers(plan), init_weights=False)
    wide = torch.nn.Linear(8 * 49, 24), torch.nn.Linear(24, 24), torch.nn.Linear(24, 5)
    theirs.classifier[0], theirs.classifier[3], theirs.classifier[6] = wide
    network = Functional(lambda make: Fcn8s(make, classes=2, **FCN8S))
    params = random_params(network)
    publish(
        trained("segmentation/labelled/0", params, **segmenter_settings(kind="fcn8s")),
        tmp_path / "o",
    )
    result = theirs.load_state_dict(load_file(tmp_path / "o" / "model.safetensors"), strict=False)
    assert sorted(result.missing_keys) == ["classifier.6.bias", "classifier.6.weight"]
    assert all(name.startswith("score_") for name in result.unexpected_keys)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        maps = theirs.features(peers.to_torch_image(image))
        expected = theirs.classifier[0](maps.flatten(1))

    @jax.jit
    def middle(params, image):
        net = network.module(params)
        return net.classifier[0](pool(net.features(image)[4]))[:, 3, 3]

    assert peers.relative_error(middle(params, image), expected) < peers.TOLERANCE


@pytest.mark.parity
def test_diffusers_loads_an_exported_autoencoder(tmp_path, trained):
    from tests import peers

    diffusers, torch = peers.peer("diffusers"), peers.torch
    from stedm_jax.models.autoencoder import Autoencoder

    for kind in ("vq", "kl"):
        small = {
            "channels": 128,
            "multipliers": (1, 1),
            "res_blocks": 1,
            "latent_channels": 3,
            "codes": 16,
        }
        network = Functional(
            lambda make, kind=kind, small=small: Autoencoder(
                make, kind=kind, attention=True, **small
            )
        )
        out, params = tmp_path / kind, jax.tree.map(lambda x: x - 0.05, random_params(network))
        folder = trained("autoencoder", params, **{f"{MODEL}kind": kind})
        command.main(["export", str(folder), f"--out={out}", "--format=diffusers"])
        name = json.loads((out / "config.json").read_text())["_class_name"]
        assert name == {"vq": "VQModel", "kl": "AutoencoderKL"}[kind]
        theirs = getattr(diffusers, name).from_pretrained(out).eval()
        image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
        with torch.no_grad():
            given = theirs.encode(peers.to_torch_image(image))
            given = given.latents if kind == "vq" else given.latent_dist.parameters
        found = jax.jit(lambda p, x, net=network: net.apply(p, x, method="encode"))(params, image)
        assert peers.relative_error(found, peers.from_torch_image(given)) < peers.TOLERANCE
