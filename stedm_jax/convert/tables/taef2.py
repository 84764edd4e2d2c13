"""TAEF2: two files, encoder and decoder, whose names begin with the number of a layer; or one as
diffusers has it."""

from collections.abc import Mapping

import numpy as np

from stedm_jax.convert.torch_names import Table, moved

TABLE: Table = ()
"""Of the two files, whose names get `encoder.` and `decoder.` before them."""

DIFFUSERS: Table = (
    *moved("encoder.layers.{n:d}", "encoder/{n:d}"),
    # The clamp is not counted, so that the decoder's numbers are one lower.
    *(rule for n in range(19) for rule in moved(f"decoder.layers.{n}", f"decoder/{n + 1}")),
)
"""Of the single file, and of diffusers' AutoencoderTiny."""


def files(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The two files as published: name of the file -> its tensors."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        out.setdefault(f"taef2_{part}", {})[rest] = tensor
    return out
