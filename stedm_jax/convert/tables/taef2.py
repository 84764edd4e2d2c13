"""TAEF2: two files, encoder and decoder, whose names begin with the number of a layer; or one as
diffusers has it."""

from collections.abc import Mapping

import numpy as np

from stedm_jax.convert.torch_names import Table, moved

TABLE: Table = ()
"""Of the two files, whose names get `encoder.` and `decoder.` before them."""

# Diffusers does not count the clamp, so that its decoder's numbers are one lower.
_LAYERS = [(f"encoder.layers.{n}", f"encoder/{n}") for n in range(15)]
_LAYERS += [(f"decoder.layers.{n - 1}", f"decoder/{n}") for n in range(1, 20)]
DIFFUSERS: Table = tuple(rule for names in _LAYERS for rule in moved(*names))
"""Of the single file, and of diffusers' AutoencoderTiny."""


def files(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The two files as published: name of the file -> its tensors."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        out.setdefault(f"taef2_{part}", {})[rest] = tensor
    return out
