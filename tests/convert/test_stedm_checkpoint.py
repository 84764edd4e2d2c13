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
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.experiment.runner import run_cells
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.models.autoencoder import Autoencoder
from stedm_jax.models.functional import Functional
from stedm_jax.models.style import build_style
from stedm_jax.models.unet import build_unet
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.root import Settings
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.weights_folder import load_folder
from tests.convert import stedm_file
from tests.experiment.settings import base

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


def settings_of_a_run(tiles: Path, weights: Path, kind: str) -> Settings:
    """As configs/catch.py:published, of small networks."""
    changes: dict[str, object] = {
        "data__tiles": str(tiles),
        "data__tile": 32,
        "dtype": "float32",
        "compile_cache": False,
        "autoencoder__train__steps": 0,
        "autoencoder__init_from": (str(weights / "autoencoder"),),
        "diffusion__train__steps": 0,
        "diffusion__init_from": (str(weights / "generator"),),
        "synthesis__steps": 2,
        "synthesis__tail": (20, 2),
        "synthesis__count": 8,
        "synthesis__batch": 8,
        "segmentation__border": 4,
        "segmentation__border_scored": 4,
    }
    changes |= {f"autoencoder__model__{key}": value for key, value in stedm_file.FIRST.items()}
    for part in ("unet", "style"):
        small, usual = getattr(stedm_file.DENOISER, part), getattr(Diffusion(), part)
        own = {key: value for key, value in vars(small).items() if value != vars(usual)[key]}
        changes |= {f"diffusion__{part}__{key}": value for key, value in own.items()}
    style = {"source": "none", "keep_block": True} if kind == "none" else {"aggregation": kind}
    changes |= {f"diffusion__style__{key}": value for key, value in style.items()}
    return base(**changes | {"diffusion__style__tiles": stedm_file.TILES})


SLOWER = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("max", "linear", "svit", "none")]


@pytest.mark.parametrize("kind", ("mean", *SLOWER))
def test_a_run_makes_images_with_a_checkpoint_and_gives_it_back(
    convert, first, tile_set, tmp_path, kind
):
    file = stedm_file.tensors("mean" if kind == "max" else kind, first)
    settings = settings_of_a_run(tile_set.path, convert(file, "--weights=raw"), kind)
    workdir = Workdir(tmp_path / "run")
    stages = ["data", "autoencoder", "latents", "generator", "synthesis"]
    run_cells(settings, workdir, stages, "refuse")
    made = TileSet.open(workdir.path / "synthesis" / "synthetic" / "tiles")
    images = np.stack([made.read(SYNTHETIC, number).image for number in range(8)])
    assert len(made.index(SYNTHETIC)) == 8 and images.std((1, 2, 3)).min() > 0
    generator = str(workdir.path / "generator" / "stedm")
    command.main(["export", generator, f"--out={tmp_path / 'e'}", "--format=published"])
    found = read_tensors(tmp_path / "e")
    tables = tuple(f".{name}" for name in (*stedm_file.TABLES, "num_updates"))
    learned = {name for name in file if not name.endswith(tables)}
    if kind in ("linear", "svit"):  # what is around them has no name of ours
        learned = {name for name in learned if ".seq." not in name and ".vit." not in name}
    assert learned <= set(found) and "_model.model_ema.num_updates" in found
    for name in learned:
        if ".relative_" not in name and ".model_ema." not in name:
            np.testing.assert_array_equal(found[name], file[name], err_msg=name)
        assert found[name].shape == file[name].shape
