"""The published weights that can be converted: what they are, their terms, where they are to be
had, how they are read.

Weights are never part of this package: a user gets the file from `source` under its terms. A
  checksum stands here where
the file was seen, or where its publisher states one. A network is built when it is asked for.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.convert.table import Form, Table

_MODELS, _TABLES = "stedm_jax.models", "stedm_jax.convert.tables"


@dataclass(frozen=True)
class Network:
    """How a network is made.

    Attributes:
      path: "file:Class" in stedm_jax.models. settings: of its constructor. size: name of a ViT
        size, if it is one.
      tables: "file:NAME" in stedm_jax.convert.tables; that which knows most names of a file is
        taken, the first for export under the published names.
      form: "file:function" there, where what is published is not just one file of the network's own
        names.
    """

    path: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    size: str = ""
    tables: tuple[str, ...] = ()
    form: str = ""


@dataclass(frozen=True)
class Entry:
    """One set of published weights.

    Attributes:
      name, what, licence, source: as a user reads them. gated: the publisher grants access one by
        one.
      network: a key of NETWORKS.
      key: part of the checkpoint that holds the state dict; "": the only one.
      under: prefixes, of which the first that occurs is taken off; other names are left out.
      strip: prefixes taken off where they occur, one after the other.
      ignore: regular expressions of names (after that) that are left out.
      averages: how the names of averages over the training begin (averages.py), where there may be
        any.
      load_only: regular expressions of our paths; only these are loaded.
      parts: for weights in several files, stem of a file -> prefix of its names.
      sha256: file name -> checksum, or its first digits, 8 at least, where no more is stated. urls:
        file name -> address, for files that can be had without asking.
    """

    name: str
    what: str
    licence: str
    source: str
    network: str
    gated: bool = False
    key: str = ""
    under: tuple[str, ...] = ("",)
    strip: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    averages: str = ""
    load_only: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)


_F4: dict[str, Any] = {
    "channels": 128,
    "multipliers": (1, 2, 4),
    "res_blocks": 2,
    "latent_channels": 3,
    "attention": True,
}
_F8 = _F4 | {"multipliers": (1, 2, 4, 4), "latent_channels": 4}
_MIT_B2 = {
    "widths": (64, 128, 320, 512),
    "depths": (3, 4, 6, 3),
    "heads": (1, 2, 5, 8),
    "reductions": (8, 4, 2, 1),
}
_LDM = {
    "in_channels": 6,
    "out_channels": 3,
    "base": 128,
    "multipliers": (1, 4, 8),
    "res_blocks": 2,
    "heads": 8,
}
_LID = _LDM | {
    "in_channels": 3,
    "base": 192,
    "multipliers": (1, 2, 3, 5),
    "heads": 1,
    "attention_at": (2, 4, 8),
    "attention": "transformer",
    "context_dim": 512,
}
_F4_TABLES = ("ldm_autoencoder:TABLE", "diffusers_autoencoder:TABLE_F4")

NETWORKS: dict[str, Network] = {
    "vq-f4": Network(
        "autoencoder:Autoencoder", _F4 | {"kind": "vq", "codes": 8192}, tables=_F4_TABLES
    ),
    "kl-f4": Network(
        "autoencoder:Autoencoder", _F4 | {"kind": "kl", "codes": 0}, tables=_F4_TABLES
    ),
    "kl-f8": Network(
        "autoencoder:Autoencoder",
        _F8 | {"kind": "kl", "codes": 0},
        tables=("ldm_autoencoder:TABLE", "diffusers_autoencoder:TABLE_F8"),
    ),
    "ldm-unet": Network("unet:UNet", _LDM, tables=("ldm_unet:TABLE",)),
    "lid-unet": Network("unet:UNet", _LID, tables=("ldm_unet:TABLE",)),
    "lid-guided": Network("guided:PublishedGuidedUNet", _LID, tables=("ldm_unet:GUIDED_TABLE",)),
    "vit-hipt256": Network("vit:ViT", size="hipt_vit256"),
    "vit-uni2-h": Network("vit:ViT", size="uni2_h"),
    "vit-virchow2": Network("vit:ViT", size="virchow2"),
    "vit-h0-mini": Network("vit:ViT", size="h0_mini"),
    "swin-v2-t": Network("swin_v2:SwinV2", {"classes": 1000}),
    "mit-b2": Network("mit:MixTransformer", _MIT_B2),
    "resnet18": Network("resnet:ResNet", {"depths": (2, 2, 2, 2)}),
    "resnet34": Network("resnet:ResNet", {"depths": (3, 4, 6, 3)}),
    "resnet50": Network("resnet:ResNet", {"depths": (3, 4, 6, 3), "bottleneck": True}),
    "convnext-tiny": Network(
        "convnext:ConvNeXt", {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)}
    ),
    "vgg16-fcn8s": Network("fcn8s:Fcn8s", {"classes": 2}, tables=("fcn8s:TABLE",)),
    "taef2": Network("taef2:TAEF2", tables=("taef2:TABLE", "taef2:DIFFUSERS"), form="taef2:files"),
    "lpips-alex": Network(
        "lpips:LPIPS", tables=("lpips:PYTORCH", "lpips:TABLE"), form="lpips:files"
    ),
    "inception-fid": Network("inception:Inception", tables=("inception:TABLE",)),
}


def build(network: str) -> Any:
    """The `Functional` of a key of NETWORKS."""
    from stedm_jax.models.functional import (
        Functional,
    )  # brings JAX, which a list of names need not wait for

    known = NETWORKS[network]
    file, _, name = known.path.partition(":")
    module = importlib.import_module(f"{_MODELS}.{file}")
    make: Callable[..., Any] = getattr(module, name)
    if known.size:
        size = importlib.import_module(f"{_MODELS}.vit_sizes").vit_size(known.size)
        return Functional(lambda rngs: make(size, rngs=rngs))
    return Functional(lambda rngs: make(**known.settings, rngs=rngs))


def tables(network: str) -> list[Table]:
    """The tables of a key of NETWORKS; one that is empty where our names are the published ones."""
    return [_of_tables(path) for path in NETWORKS[network].tables] or [()]


def form(network: str) -> Form | None:
    """What makes the published files of a key of NETWORKS, where it is more than a table."""
    return _of_tables(NETWORKS[network].form) if NETWORKS[network].form else None


def _of_tables(path: str) -> Any:
    file, _, name = path.partition(":")
    return getattr(importlib.import_module(f"{_TABLES}.{file}"), name)


def names() -> tuple[str, ...]:
    """Names of all entries."""
    return tuple(entries())


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
      UserError: there is none; the message lists all.
    """
    known = entries()
    if name not in known:
        raise UserError(
            f"There is no entry '{name}'; there are {', '.join(known)}. See python -m stedm_jax.convert list."
        )
    return known[name]


def entries() -> dict[str, Entry]:
    """All entries by name."""
    from stedm_jax.convert.entries import ENTRIES

    return {each.name: each for each in ENTRIES}
