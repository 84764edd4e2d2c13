"""The published weights that can be converted: what they are, their terms, where to get them, and
how they are read.

Weights are never part of this package: a user gets the file from its source under its terms. The
entries themselves stand in registry.toml.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.common.text import nearest

SMP_UNET = "smp-unet"


@dataclass(frozen=True)
class Entry:
    """One set of published weights.

    Attributes:
      name, what, license, source: shown to the user.
      gated: the publisher grants access on request.
      network: one of models/published_sizes.toml; SMP_UNET: whichever smp.Unet the file holds.
      key: part of the checkpoint that holds the state dict; "": the only one.
      under: prefixes, of which the first that occurs is taken off; other names are left out.
      strip: prefixes taken off where they occur, one after the other.
      ignore: regular expressions of names (after that) that are left out.
      averages: how the names of averages over the training begin (published_averages.py), where
        there may be any.
      load_only: regular expressions of our paths; only these are loaded.
      parts: for weights in several files, stem of a file -> prefix of its names.
      sha256: file name -> checksum, or its first digits, 8 at least, where no more is stated. urls:
        file name -> address, for files that can be had without asking.
    """

    name: str
    what: str
    license: str
    source: str
    network: str
    gated: bool = False
    key: str = ""
    under: Sequence[str] = ("",)
    strip: Sequence[str] = ()
    ignore: Sequence[str] = ()
    averages: str = ""
    load_only: Sequence[str] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)


_FILE = Path(__file__).with_suffix(".toml")
ENTRIES = {name: Entry(name, **keys) for name, keys in tomllib.loads(_FILE.read_text()).items()}
"""All entries by name."""


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
      UserError: there is none; the message lists all.
    """
    if name not in ENTRIES:
        raise UserError(
            f"There is no entry '{name}'; there are {', '.join(ENTRIES)}. See python -m "
            f"stedm_jax.convert list.{nearest(name, ENTRIES)}"
        )
    return ENTRIES[name]
