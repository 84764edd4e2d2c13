import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stedm_jax.convert.registry import entry
from stedm_jax.convert.tables import lpips as tables
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.lpips import LPIPS
from stedm_jax.training.param_paths import named
from tests.models.fakes import random_params

DATA = Path(os.environ.get("STEDM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
NETWORK = Functional(lambda make: LPIPS(make))


@pytest.fixture(scope="module")
def made():
    params = random_params(NETWORK)
    for level in range(5):
        head = params[f"lin{level}"]["model"]["1"]
        head["kernel"] = jnp.abs(head["kernel"])
    x = np.random.default_rng(0).uniform(-1, 1, (3, 35, 48, 3)).astype(np.float32)
    return params, jnp.asarray(x)


def test_equal_images_have_no_distance_and_others_have(made):
    params, x = made
    distance = jax.jit(NETWORK.apply)
    np.testing.assert_array_equal(distance(params, x, x), 0.0)
    np.testing.assert_allclose(
        distance(params, x, x[::-1]), distance(params, x[::-1], x), rtol=1e-5
    )
    assert (np.asarray(distance(params, x, -x)) > 0).all()


def test_gradient_is_finite_where_features_vanish(made):
    params, x = made
    dead = jax.tree.map(lambda leaf: -jnp.abs(leaf) if leaf.ndim == 1 else 0.0 * leaf, params)
    gradient = jax.jit(jax.grad(lambda x, y: NETWORK.apply(dead, x, y).sum()))(x, -x)
    assert np.isfinite(gradient).all()


def test_names_are_those_of_the_flax_file_and_of_the_package(made):
    params, _ = made
    assert param_count(NETWORK.abstract) == 2_470_848
    state = to_torch(params, tables.TABLE)
    assert state["AlexNet_0/Conv_0/kernel"].shape == (11, 11, 3, 64)
    assert state["NetLinLayer_4/Conv_0/kernel"].shape == (1, 1, 256, 1) and len(state) == 15
    back = named(from_torch(state, NETWORK.abstract, tables.TABLE))
    package = to_torch(params, tables.PYTORCH)
    assert package["net.slice2.3.weight"].shape == (192, 64, 5, 5)
    assert package["lin2.model.1.weight"].shape == (1, 384, 1, 1)
    package |= {"lins.0.model.1.weight": np.zeros(1), "scaling_layer.shift": np.zeros(1)}
    again = named(
        from_torch(package, NETWORK.abstract, tables.PYTORCH, ignore=entry("lpips-alex").ignore)
    )
    for path, leaf in named(params).items():
        np.testing.assert_array_equal(back[path], leaf)
        np.testing.assert_array_equal(again[path], leaf)


def test_too_small_images_are_refused(made):
    x = jax.ShapeDtypeStruct((1, 30, 64, 3), jnp.float32)
    with pytest.raises(AssertionError):
        jax.eval_shape(NETWORK.apply, NETWORK.abstract, x, x)


@pytest.mark.parity
def test_equals_a_torch_oracle_on_torchvisions_alexnet(made):
    from tests import peers

    torch = peers.torch
    params, x = made
    state = {name: torch.from_numpy(value.copy()) for name, value in to_torch(params).items()}
    alexnet = peers.peer("torchvision").models.alexnet().eval()
    numbers = {number: slice_ for slice_, number in ((1, 0), (2, 3), (3, 6), (4, 8), (5, 10))}
    for number, slice_ in numbers.items():
        for part in ("weight", "bias"):
            getattr(alexnet.features[number], part).data.copy_(
                state[f"net.slice{slice_}.{number}.{part}"]
            )
    shift, scale = (
        torch.tensor(v)[None, :, None, None]
        for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )

    def features(image):
        h, out = (image - shift) / scale, []
        for number, layer in enumerate(alexnet.features[:12]):
            h = torch.nn.functional.relu(h) if isinstance(layer, torch.nn.ReLU) else layer(h)
            if number - 1 in numbers:
                out.append(h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return out

    expected = torch.zeros(len(x))
    one, other = (features(peers.to_torch_image(image)) for image in (x, x[::-1]))
    for level, (a, b) in enumerate(zip(one, other, strict=True)):
        weighted = torch.nn.functional.conv2d((a - b).square(), state[f"lin{level}.model.1.weight"])
        expected += weighted.mean((1, 2, 3))
    error = peers.relative_error(jax.jit(NETWORK.apply)(params, x, x[::-1]), expected.detach())
    print("LPIPS", error)
    assert error < peers.TOLERANCE


@pytest.mark.data
def test_published_weights_rise_with_blur():
    from PIL import Image
    from safetensors.numpy import load_file

    file = DATA.parent / "weights" / "lpips" / "lpips_alexnet_flax.safetensors"
    images = sorted((DATA / "glas" / "images").glob("testA_*.jpg"))[:4]
    if not file.exists() or not images:
        pytest.skip(f"needs glas/ in STEDM_DATA ({DATA}) and ../weights/lpips")
    params = from_torch(load_file(file), NETWORK.abstract, tables.TABLE)
    crops = np.stack(
        [np.asarray(Image.open(path).convert("RGB"))[100:292, 100:292] for path in images]
    )
    x = (crops / 127.5 - 1).astype(np.float32)
    distance = jax.jit(NETWORK.apply)
    found = [
        distance(params, x, gaussian_filter(x, (0, s, s, 0)) if s else x) for s in (0, 0.5, 1, 2, 4)
    ]
    print("LPIPS by blur", np.round(np.mean(found, axis=1), 3))
    assert (np.asarray(found[0]) == 0).all()
    assert (np.diff(np.asarray(found), axis=0) > 0).all()
    assert float(np.mean(found[-1])) > 0.3
