"""The networks of published weights, and how their names map to ours.

They stand in published_networks.toml; the code that a network needs is imported when it is asked
for.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from stedm_jax.convert.torch_names import Table
from stedm_jax.models.functional import Functional
from stedm_jax.models.vit import vit_size

Form = Callable[[Mapping[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]
"""Tensors under published names -> those of each published file, by its name without ending."""


@dataclass(frozen=True)
class Network:
    """How a network is made.

    Attributes:
      make: "file:Class" in stedm_jax.models.
      settings: of its constructor.
      vit: size of a Vision Transformer, by name.
      tables: "file:NAME" in stedm_jax.convert.tables; that which knows most names of a file is
        taken, the first for export under the published names.
      form: "file:function" there, where what is published is not just one file of the network's own
        names.
    """

    make: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    vit: str = ""
    tables: Sequence[str] = ()
    form: str = ""


_FILE = Path(__file__).with_suffix(".toml")
NETWORKS = {name: Network(**keys) for name, keys in tomllib.loads(_FILE.read_text()).items()}


def build(network: str) -> Functional:
    """The network of a key of NETWORKS."""
    known = NETWORKS[network]
    make = resolve_name(f"stedm_jax.models.{known.make}")
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in known.settings.items()
    }
    if known.vit:
        settings["size"] = vit_size(known.vit)
    return Functional(lambda rngs: make(**settings, rngs=rngs))


def tables(network: str) -> list[Table]:
    """The tables of a key of NETWORKS; one that is empty where our names are the published ones."""
    return [_of_tables(name) for name in NETWORKS[network].tables] or [()]


def form(network: str) -> Form | None:
    """What makes the published files of a key of NETWORKS, where it is more than a table."""
    name = NETWORKS[network].form
    return _of_tables(name) if name else None


def _of_tables(name: str) -> Any:
    return resolve_name(f"stedm_jax.convert.tables.{name}")
