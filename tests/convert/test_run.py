"""Stages of a run as exported weights."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert import __main__ as command
from stedm_jax.convert.files import read_tensors
from stedm_jax.convert.folder import load_folder
from stedm_jax.convert.run import read_run
from stedm_jax.errors import UserError
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.state import TrainState

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
MODEL = "autoencoder.model."
CONFIG = {
    "name": "made", "title": "", "data.tiles": "{workdir}/data/tiles", "diffusion.train.steps": 7,
    f"{MODEL}kind": "vq", f"{MODEL}channels": 128, f"{MODEL}multipliers": [1, 1], f"{MODEL}res_blocks": 1,
    f"{MODEL}latent_channels": 3, f"{MODEL}codes": 16, f"{MODEL}attention": True,
}  # fmt: skip


def stage(workdir: Path, name: str, params: dict) -> Path:
    """A stage that has finished; the moving average is twice the parameters."""
    ema = {name: jax_double(tree) for name, tree in params.items()}
    store = Checkpoints(workdir / name / "checkpoints")
    store.save(7, TrainState(step=jnp.int32(7), params=params, ema=ema, opt_state={"n": jnp.ones(1)}))
    store.close()
    return workdir / name


def jax_double(tree):
    return {name: jax_double(leaf) for name, leaf in tree.items()} if isinstance(tree, dict) else 2 * tree


@pytest.fixture
def workdir(tmp_path) -> Path:
    path = tmp_path / "run"
    (path / "data" / "tiles").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    manifest = {"name": "tiles", "mpp": 0.5, "tile": 64, "classes": [{"name": "tumour"}]}
    manifest |= {"patients": {"train": ["a", "b"], "test": ["c"]}, "records": {"train": 9, "test": 4}}
    (path / "data" / "tiles" / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_a_diffusion_stage_in_both_formats(tmp_path, workdir):
    folder = stage(workdir, "diffusion", DIFFUSION)
    command.main(["export", str(folder), f"--out={tmp_path / 'ours'}"])
    params, info = load_folder(tmp_path / "ours")
    assert set(params) == {"unet", "layout", "style"} and info["card"]["patients"] == {"train": 2, "test": 1}
    np.testing.assert_array_equal(params["layout"]["kernel"], 2)  # the moving average
    command.main(["export", str(folder), f"--out={tmp_path / 'theirs'}", "--format=published"])
    unet = read_tensors(tmp_path / "theirs" / "unet.safetensors")
    assert unet["middle_block.2.qkv.weight"].shape == (12, 4, 1)  # the style block is the second of the middle
    assert unet["middle_block.1.in_layers.2.weight"].shape == (4, 4, 3, 3)
    text = (tmp_path / "theirs" / "README.md").read_text()
    assert "| train | 2 | 9 |" in text and "classes: tumour" in text and "- mpp: 0.5" in text
    with pytest.raises(UserError, match="for autoencoders"):
        command.main(["export", str(folder), f"--out={tmp_path / 'x'}", "--format=diffusers"])


def test_an_autoencoder_goes_without_its_discriminator(tmp_path, workdir):
    run = read_run(stage(workdir, "autoencoder", AUTOENCODER))
    assert set(run.parts["model"]) == {"encoder"} and run.card["stage"] == "autoencoder"
    assert run.diffusers["model"][1]["_class_name"] == "VQModel"


def test_what_is_no_stage_is_refused_with_what_there_is(tmp_path, workdir):
    stage(workdir, "diffusion", DIFFUSION)
    with pytest.raises(UserError, match="Name one of .*diffusion"):
        read_run(workdir)
    with pytest.raises(UserError, match="no trained stage"):
        read_run(tmp_path / "nothing")
    (workdir / "autoencoder" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="no whole checkpoint"):
        read_run(workdir / "autoencoder")


@pytest.mark.parity
def test_diffusers_loads_an_exported_autoencoder(tmp_path):
    from tests import peers

    diffusers, torch = peers.peer("diffusers"), peers.torch
    import jax

    from stedm_jax.convert.export import export
    from stedm_jax.convert.run import _diffusers
    from stedm_jax.convert.table import flatten, unflatten
    from stedm_jax.models.autoencoder import Autoencoder
    from stedm_jax.models.functional import Functional

    for kind in ("vq", "kl"):
        table, settings = _diffusers(CONFIG | {f"{MODEL}kind": kind})["model"]
        small = {"channels": 128, "multipliers": (1, 1), "res_blocks": 1, "latent_channels": 3, "codes": 16}
        network = Functional(
            lambda rngs, kind=kind, small=small: Autoencoder(kind=kind, attention=True, **small, rngs=rngs)
        )
        rng, leaves = np.random.default_rng(0), flatten(network.abstract)
        params = unflatten({p: rng.normal(0, 0.05, leaf.shape).astype(np.float32) for p, leaf in leaves.items()})
        out = tmp_path / kind
        export(params, out, card={}, network=kind, table=table, format="diffusers", settings=settings)
        theirs = getattr(diffusers, settings["_class_name"]).from_pretrained(out).eval()
        image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
        with torch.no_grad():
            given = theirs.encode(peers.to_torch_image(image))
            given = given.latents if kind == "vq" else given.latent_dist.parameters
        found = jax.jit(lambda p, x, net=network: net.apply(p, x, method="encode"))(params, image)
        assert peers.relative_error(found, peers.from_torch_image(given)) < peers.TOLERANCE
