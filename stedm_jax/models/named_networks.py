"""The networks that a configuration chooses by name: "file:Class", and sizes by name.

A file is imported when its network is asked for, so that a run does not import what it does not
use. Adding a network is a file and a line here; the configuration's choices are in settings/.
"""

import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from stedm_jax.models.functional import Functional


def named_sizes(kind: str) -> dict[str, dict[str, Any]]:
    """Name -> arguments of the constructor of the networks of a kind, from sizes.toml."""
    sizes = tomllib.loads((Path(__file__).parent / "sizes.toml").read_text())[kind]
    return {
        name: {key: tuple(each) if isinstance(each, list) else each for key, each in keys.items()}
        for name, keys in sizes.items()
    }


AUTOENCODERS = {
    "kl": "autoencoder:Autoencoder",
    "vq": "autoencoder:Autoencoder",
    "taef2": "taef2:TAEF2",
    "patches": "patches:Patches",
    "haar": "patches:Patches",
}
STYLE_ENCODERS = {
    "swin_v2_t": "swin_v2:swin_v2_t",
    "swin_v2": "swin_v2:swin_v2",
    "conv": "conv_encoder:conv_encoder",
}
AGGREGATIONS = {
    "mean": "aggregation:Mean",
    "max": "aggregation:Max",
    "linear": "aggregation:Linear",
    "attention": "aggregation:Attention",
    "svit": "svit:SViT",
    "svit_any_size": "svit_any_size:SViTAnySize",
    "none": "aggregation:Empty",
    "tokens": "aggregation:Apart",
}
SEGMENTERS = {"unet": "segmenter:Segmenter", "fcn8s": "fcn8s:Fcn8s", "dcan": "dcan:Dcan"}
SEGMENTER_ENCODERS = {"mit": "mit:encoder"} | {
    name: f"{kind}:encoder" for kind in ("mit", "resnet", "convnext") for name in named_sizes(kind)
}
STYLE_TRANSFER = "style_transfer:StyleTransfer"
HEADS = {"convolution": "pixel_head:PixelHead", "linear": "pixel_head:LinearHead"}


def find(path: str) -> Any:
    """What a "file:name" of this folder stands for."""
    file, _, name = path.partition(":")
    return getattr(import_module(f"stedm_jax.models.{file}"), name)


def network(path: str, dtype: DTypeLike = jnp.float32, **keys: Any) -> Functional:
    """The network "file:Class" with these arguments of its constructor."""
    return Functional(partial(find(path), **keys), dtype)
