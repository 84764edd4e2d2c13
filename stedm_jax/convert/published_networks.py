"""The networks of published weights, and how their names map to ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from stedm_jax.convert.tables import (
    diffusers_autoencoder,
    fcn8s,
    inception,
    ldm_autoencoder,
    ldm_unet,
    lpips,
    taef2,
)
from stedm_jax.convert.torch_names import Table
from stedm_jax.models import convnext, mit, resnet
from stedm_jax.models.autoencoder import Autoencoder
from stedm_jax.models.fcn8s import Fcn8s
from stedm_jax.models.functional import Functional
from stedm_jax.models.guided import PublishedGuidedUNet
from stedm_jax.models.inception import Inception
from stedm_jax.models.lpips import LPIPS
from stedm_jax.models.swin_v2 import SwinV2
from stedm_jax.models.taef2 import TAEF2
from stedm_jax.models.unet import UNet
from stedm_jax.models.vit import ViT
from stedm_jax.models.vit_sizes import vit_size

Form = Callable[[Mapping[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]
"""Tensors under published names -> those of each published file, by its name without ending."""


@dataclass(frozen=True)
class Network:
    """How a network is made.

    Attributes:
      make: the module, given `rngs`.
      tables: that which knows most names of a file is taken, the first for export under the
        published names; an empty one where our names are the published ones.
      form: makes the published files, where they are not just one of the network's own names.
    """

    make: Callable[..., Any]
    tables: tuple[Table, ...] = ((),)
    form: Form | None = None


_F4 = partial(
    Autoencoder,
    channels=128,
    multipliers=(1, 2, 4),
    res_blocks=2,
    latent_channels=3,
    attention=True,
)
_F8 = partial(_F4, multipliers=(1, 2, 4, 4), latent_channels=4)
_F4_TABLES = (ldm_autoencoder.TABLE, diffusers_autoencoder.table(3))
_F8_TABLES = (ldm_autoencoder.TABLE, diffusers_autoencoder.table(4))
_LDM = {"out_channels": 3, "res_blocks": 2}
_LID: dict[str, Any] = _LDM | {
    "in_channels": 3,
    "base": 192,
    "multipliers": (1, 2, 3, 5),
    "heads": 1,
    "attention_at": (2, 4, 8),
    "attention": "transformer",
    "context_dim": 512,
}
_LDM_UNET = partial(UNet, in_channels=6, base=128, multipliers=(1, 4, 8), heads=8, **_LDM)


def _vit(name: str) -> Network:
    return Network(partial(ViT, vit_size(name)))


NETWORKS: dict[str, Network] = {
    "vq-f4": Network(partial(_F4, kind="vq", codes=8192), _F4_TABLES),
    "kl-f4": Network(partial(_F4, kind="kl", codes=0), _F4_TABLES),
    "kl-f8": Network(partial(_F8, kind="kl", codes=0), _F8_TABLES),
    "ldm-unet": Network(_LDM_UNET, (ldm_unet.TABLE,)),
    "lid-unet": Network(partial(UNet, **_LID), (ldm_unet.TABLE,)),
    "lid-guided": Network(partial(PublishedGuidedUNet, **_LID), (ldm_unet.GUIDED_TABLE,)),
    "vit-hipt256": _vit("hipt_vit256"),
    "vit-uni2-h": _vit("uni2_h"),
    "vit-virchow2": _vit("virchow2"),
    "vit-h0-mini": _vit("h0_mini"),
    "swin-v2-t": Network(partial(SwinV2, classes=1000)),
    "mit-b2": Network(partial(mit.MixTransformer, **mit.SIZES["mit_b2"])),
    "resnet18": Network(partial(resnet.ResNet, **resnet.SIZES["resnet18"])),
    "resnet34": Network(partial(resnet.ResNet, **resnet.SIZES["resnet34"])),
    "resnet50": Network(partial(resnet.ResNet, **resnet.SIZES["resnet50"])),
    "convnext-tiny": Network(partial(convnext.ConvNeXt, **convnext.SIZES["convnext_tiny"])),
    "vgg16-fcn8s": Network(partial(Fcn8s, classes=2), (fcn8s.TABLE,)),
    "taef2": Network(TAEF2, (taef2.TABLE, taef2.DIFFUSERS), taef2.files),
    "lpips-alex": Network(LPIPS, (lpips.PYTORCH, lpips.TABLE), lpips.files),
    "inception-fid": Network(Inception, (inception.TABLE,)),
}


def build(network: str) -> Functional:
    """The network of a key of NETWORKS."""
    make = NETWORKS[network].make
    return Functional(lambda rngs: make(rngs=rngs))
