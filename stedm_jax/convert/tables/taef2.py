"""TAEF2: two files, encoder and decoder, whose names begin with the number of a layer; or one as diffusers has it."""

from collections.abc import Mapping

import numpy as np

from stedm_jax.convert.table import Rule, Table

TABLE: Table = ()
"""Of the names that `join` makes."""

# Diffusers does not count the clamp, so that its decoder's numbers are one lower.
_LAYERS = [(f"encoder.layers.{n}", f"encoder/{n}") for n in range(15)]
_LAYERS += [(f"decoder.layers.{n - 1}", f"decoder/{n}") for n in range(1, 20)]
DIFFUSERS: Table = tuple(
    rule
    for theirs, ours in _LAYERS
    for rule in (
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/scale", ndim=1),
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/kernel", "kernel"),
        Rule(f"{theirs}.weight", f"{ours}/kernel", "kernel"),
        Rule(f"{theirs}.{{a}}", f"{ours}/{{a}}"),
    )
)
"""Of the single file, and of diffusers' AutoencoderTiny."""


def join(encoder: Mapping[str, np.ndarray], decoder: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of the two published files under `encoder.` and `decoder.`."""
    parts = (("encoder", encoder), ("decoder", decoder))
    return {f"{part}.{name}": value for part, tensors in parts for name, value in tensors.items()}
