"""A whole checkpoint of the code released with STEDM: in, and out under every name."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.torch_names import to_torch
from stedm_jax.convert.weight_files import read_tensors
from stedm_jax.models.autoencoder import Autoencoder
from stedm_jax.models.functional import Functional
from stedm_jax.models.style import build_style
from stedm_jax.models.unet import build_unet
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.weights_folder import load_folder
from tests.convert import stedm_file

FIRST = Functional(partial(Autoencoder, **stedm_file.FIRST))
BUILT = {"build_unet": cache(build_unet), "build_style": cache(build_style)}
"""Networks, which are described once for all tests."""


@pytest.fixture(scope="session")
def first() -> dict[str, np.ndarray]:
    """A first stage under LDM's names."""
    rng, leaves = np.random.default_rng(1), named(FIRST.abstract)
    params = {path: rng.normal(size=x.shape).astype(np.float32) for path, x in leaves.items()}
    return to_torch(nested(params), tables("vq-f4")[0])


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Converts tensors; the folder."""
    place = "stedm_jax.convert.stedm_checkpoint"
    monkeypatch.setattr(f"{place}.DENOISER", stedm_file.DENOISER)
    monkeypatch.setattr(f"{place}.build_published", lambda name: FIRST)
    for name, build in BUILT.items():
        monkeypatch.setattr(f"{place}.{name}", build)

    def run(
        tensors: dict[str, np.ndarray], *options: str, name: str = "stedm", whole: bool = False
    ) -> Path:
        path, out = tmp_path / "a.ckpt", tmp_path / "weights"
        stedm_file.lightning(path, tensors) if whole else save_file(tensors, path)
        command.main([name, str(path), f"--out={out}", "--force", *options])
        return out

    return run


@pytest.mark.parametrize(
    ("kind", "weights"),
    (("mean", "ema"), ("mean", "raw"), ("linear", "ema"), ("svit", "raw"), ("none", "ema")),
)
def test_every_name_comes_back(convert, first, tmp_path, kind, weights):
    file = stedm_file.tensors(kind, first)
    out = convert(file, f"--weights={weights}", whole=kind == "mean" and weights == "ema")
    command.main(["export", str(out), f"--out={tmp_path / 'e'}", "--format=published"])
    found, plus = read_tensors(tmp_path / "e"), weights == "ema"
    assert set(found) == set(file)
    for name, tensor in file.items():
        shift = (plus and ".model.diffusion_model." in name) - (
            not plus and ".model_ema.diffusion_model" in name
        )
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        np.testing.assert_allclose(found[name], tensor + shift, rtol=0, atol=2e-7 * abs(shift))


def test_parameters_are_where_a_run_looks_for_them(convert, first, capsys):
    file = stedm_file.tensors("linear", first)
    out = convert(file, "--weights=raw")
    generator, about = load_folder(out / "generator")
    assert about["averages"] == 0 and set(generator) == {"unet", "layout", "style"}

    def tensor(name: str) -> np.ndarray:
        return file[f"_model.{name}"]

    layout = tensor("cond_stage_model.channel_mapper.weight")
    np.testing.assert_array_equal(generator["layout"]["kernel"], layout[:, :, 0, 0].T)
    head = tensor("agg_block.embedder.head.weight")
    np.testing.assert_array_equal(generator["style"]["encoder"]["head"]["kernel"], head.T)
    layers = generator["style"]["aggregation"]["layers"]
    np.testing.assert_array_equal(layers["3"]["kernel"], tensor("agg_block.seq.3.weight").T)
    block = tensor("model.diffusion_model.middle_block.1.block.in_layers.2.weight")
    kernel = generator["unet"]["style_block"]["in_layers"]["2"]["kernel"]
    np.testing.assert_array_equal(kernel, block.transpose(2, 3, 1, 0))
    book = load_folder(out / "autoencoder")[0]["quantize"]["embedding"]["embedding"]
    np.testing.assert_array_equal(book, first["quantize.embedding.weight"])
    text = capsys.readouterr().out
    assert "aggregation='linear', tiles=3" in text and "--config.autoencoder.init_from=" in text


def test_copies_that_differ_are_refused(convert, first):
    file = stedm_file.tensors("mean", first)
    name = "model._agg_block._embedder.head.bias"
    file[name] = file[name] + 1
    with pytest.raises(UserError, match=f"copies of one tensor.*and {name}, which differ"):
        convert(file)


def test_what_the_network_does_not_have_is_refused(convert, first):
    file = stedm_file.tensors("mean", first)
    for name in ("agg_block.more.weight", "cond_stage_model.more.bias"):
        with pytest.raises(UserError, match=f"does not have: {name}"):
            convert(file | {f"model.{name}": np.ones(3)})
    for name in ("model.diffusion_model.more.weight", "model_ema.diffusion_modelmoreweight"):
        with pytest.raises(UserError, match="1 unexpected: "):
            convert(file | {f"model.{name}": np.ones(3)})
    del file["model.cond_stage_model.channel_mapper.weight"]
    del file["_model.cond_stage_model.channel_mapper.weight"]
    with pytest.raises(UserError, match="channel_mapper"):
        convert(file)


def test_other_entries_name_this_one_and_this_one_the_others(convert, first):
    file = stedm_file.tensors("mean", first)
    for name in ("ldm-landscape", "ldm-vq-f4"):
        with pytest.raises(UserError, match="Convert it as stedm"):
            convert(file, name=name)
    with pytest.raises(UserError, match="ldm-landscape"):
        convert({"model.diffusion_model.out.0.bias": np.ones(3)})
    with pytest.raises(UserError, match="leave out --load_only"):
        convert(file, "--load_only=style")
