"""A whole checkpoint of the code released with STEDM: in, and out under every name."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.stedm_export import schedule_tables
from stedm_jax.convert.stedm_names import UNET as UNET_NAMES
from stedm_jax.convert.stedm_names import StyleNames, average, plain, published
from stedm_jax.convert.torch_names import Table, to_torch, torch_name
from stedm_jax.convert.weight_files import read_tensors
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.experiment.runner import run_cells
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.models.autoencoder import Autoencoder
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.published_sizes import build_published
from stedm_jax.models.style import build_style
from stedm_jax.models.unet import UNet, build_unet
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.root import Settings
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.weights_folder import load_folder
from tests.convert import stedm_file
from tests.experiment.settings import base

FIRST = Functional(partial(Autoencoder, **stedm_file.FIRST))
BUILT = {"build_unet": cache(build_unet), "build_style": cache(build_style)}
"""Networks, which are described once for all tests."""
UNET = Functional(
    partial(UNet, in_channels=6, out_channels=3, style_dim=16, **vars(stedm_file.DENOISER.unet))
)


@pytest.fixture(scope="session")
def first() -> dict[str, np.ndarray]:
    """A first stage under LDM's names."""
    rng, leaves = np.random.default_rng(1), named(FIRST.abstract)
    params = {path: rng.normal(size=x.shape).astype(np.float32) for path, x in leaves.items()}
    return to_torch(nested(params), tables("vq-f4")[0])


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Converts a file, or tensors; the folder."""
    place = "stedm_jax.convert.stedm_checkpoint"
    monkeypatch.setattr(f"{place}.DENOISER", stedm_file.DENOISER)
    monkeypatch.setattr(f"{place}.build_published", lambda name: FIRST)
    for name, build in BUILT.items():
        monkeypatch.setattr(f"{place}.{name}", build)

    def run(given: dict[str, np.ndarray] | Path, *options: str, name: str = "stedm") -> Path:
        path, out = tmp_path / "a.safetensors", tmp_path / "weights"
        if isinstance(given, Path):
            path = given
        else:
            save_file(given, path)
        command.main([name, str(path), f"--out={out}", "--force", *options])
        return out

    return run


@pytest.mark.parametrize(
    ("kind", "weights"),
    (("mean", "ema"), ("mean", "raw"), ("linear", "ema"), ("svit", "raw"), ("none", "ema")),
)
def test_every_name_comes_back(convert, first, tmp_path, kind, weights):
    file = stedm_file.tensors(kind, first)
    whole = kind == "mean" and weights == "ema"  # reading safetensors is faster
    path = stedm_file.lightning(tmp_path / "a.ckpt", file) if whole else file
    out = convert(path, f"--weights={weights}")
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
    assert "config.data.groups: 2, in the file's order" in text
    assert "set config.diffusion.schedule" in text  # its tables are random
    usual = schedule_tables(Diffusion())["alphas_cumprod"]
    convert(file | {f"{top}.alphas_cumprod": usual for top in ("_model", "model")})
    assert "set config.diffusion.schedule" not in capsys.readouterr().out


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
        with pytest.raises(UserError, match="published sizes are taken.*1 unexpected: "):
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


def test_names_and_sizes_are_the_published_ones():
    """Shapes alone. The file that was counted has 3,210 tensors: one more, in both copies, which is
    no parameter."""
    config, float32 = Diffusion(), jnp.float32
    shape = {"in_channels": 6, "out_channels": 3, "style_dim": config.style.dim, "dtype": float32}
    unet = build_unet(config.unet, **shape).abstract
    style, first = build_style(config.style, float32).abstract, build_published("vq-f4").abstract
    assert param_count(unet) == 234_635_139 and param_count(style) == 27_976_298
    names = [f"{UNET_NAMES}{name}" for name in theirs(unet, tables("stedm-unet")[0])]
    names += [average(name) for name in names]
    names += [f"first_stage_model.{name}" for name in theirs(first, tables("vq-f4")[0])]
    extractor, encoder = StyleNames.of("mean"), theirs(style)
    names += [extractor.theirs(name) for name in encoder]
    scales = [name for name in encoder if name.endswith("logit_scale")]
    names += 2 * [extractor.theirs(name) for name in scales]  # for the tables beside them
    names += ["cond_stage_model.channel_mapper.weight", "model_ema.decay", "model_ema.num_updates"]
    names += schedule_tables(config)
    assert sum(len(published(name)) for name in names) == 3_208
    assert {plain(each) for name in names for each in published(name)} == set(names)
    three = build_style(replace(config.style, aggregation="linear", tiles=3), float32)
    assert param_count(three.abstract) == 29_025_898


def theirs(abstract: dict, table: Table = ()) -> list[str]:
    return [torch_name(path, leaf.ndim, table)[0] for path, leaf in named(abstract).items()]


@pytest.mark.parity
@pytest.mark.parametrize("kind", ("mean", "linear"))
def test_a_file_of_torch_gives_what_its_modules_give_and_loads_again(
    convert, first, tmp_path, kind
):
    """Strictly, with the prediction of the denoiser from noise, layout and three style images."""
    from tests import peers
    from tests.convert import oracle_stedm
    from tests.models.oracle_ldm import UNet as PublishedUNet
    from tests.models.test_swin_v2 import torchvision_swin

    torch, sizes = peers.torch, {"base": 8, "multipliers": (1, 2), "res_blocks": 1, "heads": 2}
    unet = PublishedUNet(6, 3, style=16, **sizes)
    swin = torchvision_swin(8, (2, 2, 2, 2), (1, 1, 1, 2), 4, classes=16)
    nothing, relu = torch.nn.Identity(), torch.nn.ReLU()
    layers = [torch.nn.Linear(48, 16), torch.nn.Linear(16, 16)]
    block = torch.nn.Sequential(relu, layers[0], relu, layers[1], relu)
    extra = {"agg": block} if kind == "linear" else {}
    module = oracle_stedm.whole(peers.randomise(unet), swin, first, **extra).eval()
    state = module.state_dict()
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-6}]}
    content = {"state_dict": state, "optimizer_states": [optimizer], "hyper_parameters": nothing}
    path = tmp_path / "torch.ckpt"
    torch.save(content | {"callbacks": {"ours": stedm_file.Foreign()}}, path)
    out = convert(path, "--weights=raw")

    rng = np.random.default_rng(0)
    z, hot = (rng.normal(size=(2, 8, 8, size)).astype(np.float32) for size in (3, 2))
    tiles, t = rng.uniform(-1, 1, (2, 3, 32, 32, 3)).astype(np.float32), np.array([3.0, 700.0])
    params, _ = load_folder(out / "generator")
    style = replace(stedm_file.DENOISER.style, aggregation=kind, tiles=3)
    extract = jax.jit(BUILT["build_style"](style, jnp.float32).apply)
    given = extract(params["style"], tiles, jnp.ones((2, 3), bool))
    stacked = np.concatenate([z, hot @ params["layout"]["kernel"]], axis=-1)
    ours = jax.jit(UNET.apply)(params["unet"], stacked, jnp.asarray(t, jnp.float32), given)
    with torch.no_grad():
        images = torch.from_numpy(tiles.reshape(6, 32, 32, 3)).permute(0, 3, 1, 2)
        vectors = swin(images).reshape(2, 3, 16)
        vector = block(vectors.flatten(1)) if extra else vectors.mean(1)
        mapper = module.get_submodule("model.cond_stage_model.channel_mapper")
        both = [peers.to_torch_image(z), mapper(peers.to_torch_image(hot))]
        theirs = unet(torch.cat(both, 1), torch.tensor(t, dtype=torch.float32), vector)
    error = peers.relative_error(ours, peers.from_torch_image(theirs))
    print(f"prediction from layout and style images {error:.1e}")
    assert error < peers.TOLERANCE

    command.main(["export", str(out), f"--out={tmp_path / 'e'}", "--format=published"])
    again = {
        name: torch.from_numpy(np.array(x)) for name, x in read_tensors(tmp_path / "e").items()
    }
    wanted = {name: value.clone() for name, value in state.items()}
    peers.randomise(module, seed=1)
    module.load_state_dict(again)
    for name, value in module.state_dict().items():
        average = ".model_ema.diffusion_model" in name
        assert value.dtype == wanted[name].dtype
        assert average or torch.equal(value, wanted[name]), name
