"""LPIPS with AlexNet: names of the PyTorch package, which are ours, and those of a file in flax
layout."""

from collections.abc import Mapping

import numpy as np

from stedm_jax.convert.torch_names import Rule, Table
from stedm_jax.models.lpips import SCALE, SHIFT

_SLICES = ((1, 0), (2, 3), (3, 6), (4, 8), (5, 10))
TABLE: Table = (
    *(
        Rule(f"AlexNet_0/Conv_{i}/{{a}}", f"net/slice{n}/{number}/{{a}}")
        for i, (n, number) in enumerate(_SLICES)
    ),
    *(Rule(f"NetLinLayer_{i}/Conv_0/{{a}}", f"lin{i}/model/1/{{a}}") for i in range(5)),
)
PYTORCH: Table = ()


def files(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The state dict of the package's module, which has the heads twice, and the constants of its
    input."""
    heads = {
        f"lins.{name.removeprefix('lin')}": value
        for name, value in tensors.items()
        if name.startswith("lin")
    }
    pairs = (("shift", SHIFT), ("scale", SCALE))
    fixed = {
        f"scaling_layer.{name}": np.array(value, np.float32)[None, :, None, None]
        for name, value in pairs
    }
    return {"lpips_alex": {**tensors, **heads, **fixed}}
