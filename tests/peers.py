"""Published PyTorch modules beside ours: what every parity test needs.

Import this module inside a test marked `parity`; it skips, with the reason, where torch or a
package is absent.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from stedm_jax.convert.torch_names import Table, from_torch

torch: Any = pytest.importorskip("torch", reason="parity tests need torch, see README.md")
torch.set_num_threads(2)

# A torchvision built for CUDA stops at import on a CPU build of torch, for want of these two
# declarations.
try:
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:
    pass  # this torchvision has declared them itself

TOLERANCE = 1e-4


def peer(name: str) -> Any:
    """A package of published modules, or a skip."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"parity with {name} needs that package ({error})")


def randomise(module: Any, seed: int = 0, scale: float = 1.0) -> Any:
    """The module in evaluation mode, every parameter and buffer with random values of a sensible
    size.

    Fresh networks have zeros and ones in places, which would hide a wrong mapping.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            elif value.ndim <= 1:
                value.add_(0.1 * scale * noise)
            else:
                fan_in = value[0].numel()
                value.copy_(scale * noise / fan_in**0.5)
    return module.eval()


def state_of(module: Any) -> dict[str, np.ndarray]:
    """The state dict as numpy arrays."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def mapped(module: Any, network: Any, table: Table = (), ignore: tuple[str, ...] = ()) -> Any:
    """The weights of a PyTorch module as parameters of a `Functional`, through the product's
    converter."""
    params = from_torch(
        state_of(module), network.abstract, table, ignore=(r"num_batches_tracked$", *ignore)
    )
    return jax.tree.map(jax.numpy.asarray, params)


def to_torch_image(x: np.ndarray) -> Any:
    """(b, h, w, c) to a tensor (b, c, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def from_torch_image(x: Any) -> np.ndarray:
    """A tensor (b, c, h, w) to (b, h, w, c)."""
    return np.moveaxis(x.detach().cpu().numpy(), 1, -1)


def relative_error(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest absolute value of theirs."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"shape {ours.shape} instead of {theirs.shape}"
    assert np.isfinite(theirs).all() and np.abs(theirs).max() > 0
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def gradient_errors(ours: Any, module: Any, network: Any, table: Table = ()) -> Mapping[str, float]:
    """Relative error of each gradient of ours against those that a backward pass left in a PyTorch
    module."""
    grads = {name: value.grad.detach().cpu().numpy() for name, value in module.named_parameters()}
    theirs = from_torch(grads, network.abstract, table)
    flat = jax.tree_util.tree_leaves_with_path(theirs)
    leaves = jax.tree.leaves(ours)
    top = max(float(np.abs(leaf).max()) for _, leaf in flat)
    return {
        jax.tree_util.keystr(path): float(
            np.abs(np.asarray(own) - leaf).max() / max(np.abs(leaf).max(), 1e-3 * top)
        )
        for (path, leaf), own in zip(flat, leaves, strict=True)
    }
