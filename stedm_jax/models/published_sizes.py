"""The networks of publications at their published sizes, which stand in published_sizes.toml:

[NAME]       network: "file:Class"; arguments: of its constructor, where `size` of a ViT and
             `sizes` of an encoder are names in the tables of their files
[NAME.rows]  what table.py shows of it; see `Row` there

A smp.Unet with two classes is here with each of its encoders (`unet_name`).
"""

import tomllib
from pathlib import Path
from typing import Any

from stedm_jax.models.functional import Functional
from stedm_jax.models.named_networks import SEGMENTER_ENCODERS, find, network
from stedm_jax.settings.names import MIT

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text()
)


def unet_name(encoder: str) -> str:
    """Name of the smp.Unet with an encoder of named_networks.SEGMENTER_ENCODERS."""
    return f"unet-{encoder.replace('_', '-')}"


for _encoder in SEGMENTER_ENCODERS.keys() - {MIT}:
    PUBLISHED.setdefault(unet_name(_encoder), {}).update(
        network="segmenter:Segmenter",
        arguments={"classes": 2, "encoder": _encoder, "norm": "batch"},
    )


def build_published(name: str, **changes: Any) -> Functional:
    """One of PUBLISHED, in float32, with other arguments where some are given."""
    path, arguments = PUBLISHED[name]["network"], PUBLISHED[name].get("arguments", {}) | changes
    if "size" in arguments:
        arguments = {"size": find("vit:vit_size")(arguments["size"])}
    if "sizes" in arguments:
        arguments = find(f"{path.partition(':')[0]}:SIZES")[arguments["sizes"]]
    return network(path, **arguments)
