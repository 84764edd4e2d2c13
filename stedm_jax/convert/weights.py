"""From a file of published weights to parameters of ours: what `python -m stedm_jax.convert NAME
FILE` does."""

import importlib.metadata
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of
from stedm_jax.convert.averages import averaged
from stedm_jax.convert.files import Tensors, read_tensors
from stedm_jax.convert.registry import Entry, build, tables
from stedm_jax.convert.table import Table, Tree, flatten, from_torch, our_name, torch_name
from stedm_jax.training.weights_folder import is_converted

_NEVER = (r"num_batches_tracked$",)
"""Counters of batch norms, which nothing reads."""


def convert(
    entry: Entry, path: Path, *, key: str = "", weights: str = "auto", load_only: Sequence[str] = ()
) -> tuple[Tree, dict[str, Any]]:
    """Parameters of the entry's network from a file or folder.

    Args:
      entry: of the registry.
      path: of the weights.
      key: part of a checkpoint, where it is not the entry's.
      weights: "ema", the averages over the training; "raw", the last; "auto", averages where the
        file has them.
      load_only: regular expressions of our paths, where they are not the entry's; only these are
        loaded.

    Returns:
      The parameters, and what convert.json says of them.

    Raises:
      UserError: the file cannot be read, or its names and shapes are not those of the network.
    """
    for pattern in load_only:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"--load_only: '{pattern}' is no regular expression ({error})."
            ) from error
    if is_converted(path):
        raise UserError(
            f"{path} was converted already; init_from takes it as it is, and export writes it anew."
        )
    everything = read_tensors(path, key=key or entry.key, parts=entry.parts or None)
    tensors = everything.renamed(str(path), entry.under, entry.strip)
    chosen = tuple(load_only) or entry.load_only
    network, ignore = build(entry.network), (*entry.ignore, *_NEVER)
    table = _fitting(tables(entry.network), tensors, network.abstract)
    names = (
        torch_name(name, len(leaf.shape), table)[0]
        for name, leaf in flatten(network.abstract).items()
    )
    tensors, averages = averaged(tensors, everything, names, entry.averages, weights, str(path))
    params = from_torch(
        tensors,
        network.abstract,
        table,
        ignore=ignore,
        load_only=chosen,
        leave_unknown=bool(load_only),  # whoever asks for a part does not want the rest
        where=f"The weights in {path}",
    )
    return params, _info(entry, tensors, params, network.abstract, chosen, table) | {
        "averages": averages
    }


def _fitting(candidates: Sequence[Table], tensors: Tensors, abstract: Mapping[str, Any]) -> Table:
    """The table by which most names of the file are names of the network."""
    if len(candidates) == 1:
        return candidates[0]
    wanted = flatten(abstract)
    known = [
        sum(our_name(name, array.ndim, table)[0] in wanted for name, array in tensors.items())
        for table in candidates
    ]
    return candidates[int(np.argmax(known))]


def _info(
    entry: Entry,
    tensors: Tensors,
    params: Tree,
    abstract: Mapping[str, Any],
    load_only: Sequence[str],
    table: Table,
) -> dict[str, Any]:
    loaded, wanted = flatten(params), flatten(abstract)
    unused = (
        name
        for name, array in tensors.items()
        if our_name(name, array.ndim, table)[0] not in loaded
    )
    left = [*tensors.left_out, *unused]
    return {
        "name": entry.name,
        "network": entry.network,
        "what": entry.what,
        "licence": entry.licence,
        "source": entry.source,
        "files": {file.name: sha256_of(file) for file in tensors.files},
        "load_only": list(load_only),
        "loaded": len(loaded),
        "parameters": int(sum(array.size for array in loaded.values())),
        "not_loaded": [path for path in wanted if path not in loaded],
        # By the first part of the name, as optimiser states have thousands.
        "left_out": dict(sorted(Counter(name.split(".")[0] for name in left).items())),
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("stedm_jax", "numpy", "safetensors")
        },
    }


def unknown_files(entry: Entry, info: Mapping[str, Any]) -> list[str]:
    """Files whose checksums are not those that the registry knows, as far as it knows any."""
    known = tuple(entry.sha256.values())  # or the first digits
    return [
        name for name, digest in info["files"].items() if known and not digest.startswith(known)
    ]
