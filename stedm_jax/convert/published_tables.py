"""How the names of published networks map to ours, by the networks' names in
models/published_sizes.toml."""

from collections.abc import Callable, Mapping

import numpy as np

from stedm_jax.convert.tables import (
    convnext,
    diffusers_autoencoder,
    fcn8s,
    inception,
    ldm_autoencoder,
    ldm_unet,
    lpips,
    taef2,
)
from stedm_jax.convert.torch_names import Table
from stedm_jax.models.convnext import SIZES as CONVNEXTS
from stedm_jax.models.published_sizes import unet_name

Form = Callable[[Mapping[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]
"""Tensors under published names -> those of each published file, by its name without ending."""

_F4 = (ldm_autoencoder.TABLE, diffusers_autoencoder.table(3))
TABLES: dict[str, tuple[Table, ...]] = {
    "vq-f4": _F4,
    "kl-f4": _F4,
    "kl-f8": (ldm_autoencoder.TABLE, diffusers_autoencoder.table(4)),
    "ldm-unet": (ldm_unet.TABLE,),
    "stedm-unet": (ldm_unet.STEDM_TABLE,),
    "lid-unet": (ldm_unet.TABLE,),
    "lid-guided": (ldm_unet.GUIDED_TABLE,),
    "vgg16-fcn8s": (fcn8s.TABLE,),
    "taef2": (taef2.TABLE, taef2.DIFFUSERS),
    "lpips-alex": (lpips.PYTORCH, lpips.TABLE),
    "inception-fid": (inception.TABLE,),
} | {unet_name(encoder): (convnext.TABLE,) for encoder in CONVNEXTS}
"""Network -> its tables: that which knows most names of a file is taken, the first for export under
the published names. Of the others our names are the published ones."""
FORMS: dict[str, Form] = {"taef2": taef2.files, "lpips-alex": lpips.files}
"""Network -> what makes its published files, where these are more than one of its own names."""


def tables(network: str) -> tuple[Table, ...]:
    """The tables of a network; one that is empty where our names are the published ones."""
    return TABLES.get(network, ((),))
