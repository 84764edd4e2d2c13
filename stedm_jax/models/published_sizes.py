"""The networks of publications at their published sizes, which stand in published_sizes.toml:

[NAME]       network: "file:Class"; arguments: of its constructor, where `size` of a ViT and
             `sizes` of an encoder are names in the tables of their files
[NAME.rows]  what table.py shows of it; see `Row` there
"""

import tomllib
from pathlib import Path
from typing import Any

from stedm_jax.models.functional import Functional
from stedm_jax.models.named_networks import find, network

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text()
)


def build_published(name: str) -> Functional:
    """One of PUBLISHED, in float32."""
    path, arguments = PUBLISHED[name]["network"], PUBLISHED[name].get("arguments", {})
    if "size" in arguments:
        arguments = {"size": find("vit:vit_size")(arguments["size"])}
    if "sizes" in arguments:
        arguments = find(f"{path.partition(':')[0]}:SIZES")[arguments["sizes"]]
    return network(path, **arguments)
