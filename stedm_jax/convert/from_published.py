"""From a file of published weights to parameters of ours: what `python -m stedm_jax.convert NAME
FILE` does."""

import importlib.metadata
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of
from stedm_jax.convert.published_averages import averaged
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.registry import SMP_UNET, Entry
from stedm_jax.convert.smp_unet import recognized
from stedm_jax.convert.stedm_checkpoint import NAME, is_checkpoint
from stedm_jax.convert.torch_names import Table, from_torch, our_name, torch_name
from stedm_jax.convert.weight_files import Tensors, read_tensors
from stedm_jax.models.published_sizes import build_published
from stedm_jax.training.param_paths import named
from stedm_jax.training.weights_folder import is_converted

_COUNTERS = r"num_batches_tracked$"
"""Of batch norms; nothing reads them."""


def convert(
    entry: Entry, path: Path, *, key: str = "", weights: str = "auto", load_only: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
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
    _check(load_only)
    if is_converted(path):
        raise UserError(
            f"{path} was converted already; init_from takes it as it is, and export writes it anew."
        )
    everything = read_tensors(path, key=key or entry.key, parts=entry.parts)
    _not_whole(everything, entry, path)
    tensors = everything.renamed(str(path), entry.under, entry.strip)
    chosen = tuple(load_only) or entry.load_only
    network, shape, abstract = _network(entry, tensors, str(path))
    wanted = named(abstract)
    table, *others = tables(network)
    if others:  # that by which most names of the file are names of the network
        table = max((table, *others), key=lambda each: len(_known(tensors, each, wanted)))
    names = [torch_name(each, len(leaf.shape), table)[0] for each, leaf in wanted.items()]
    tensors, averages = averaged(tensors, everything, names, entry.averages, weights, str(path))
    params = from_torch(
        tensors,
        abstract,
        table,
        ignore=(*entry.ignore, _COUNTERS),
        load_only=chosen,
        leave_unknown=bool(load_only),  # who asks for a part does not want the rest
        where=f"The weights in {path}",
    )
    loaded = named(params)
    left = [*tensors.left_out, *(tensors.keys() - _known(tensors, table, loaded))]
    return params, _about(entry) | {
        "network": network,
        **shape,
        "files": {file.name: sha256_of(file) for file in tensors.files},
        "load_only": list(chosen),
        "loaded": len(loaded),
        "parameters": int(sum(array.size for array in loaded.values())),
        "not_loaded": [each for each in wanted if each not in loaded],
        # By the first part of the name, as optimizer states have thousands.
        "left_out": dict(sorted(Counter(name.split(".")[0] for name in left).items())),
        "averages": averages,
    }


def _network(
    entry: Entry, tensors: Tensors, where: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name of the network, what was recognized of it, and the shapes of its parameters."""
    if entry.network != SMP_UNET:
        return entry.network, {}, build_published(entry.network).abstract
    network, shape = recognized(tensors, where)
    return network, shape, build_published(network, **shape).abstract


def _not_whole(tensors: Tensors, entry: Entry, path: Path) -> None:
    if is_checkpoint(tensors):
        raise UserError(
            f"{path} is a whole checkpoint of STEDM, not one of {entry.name}. Convert it as "
            f"{NAME}: python -m stedm_jax.convert {NAME} {path} --out=weights/{NAME}"
        )


def _check(patterns: Sequence[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"--load_only: '{pattern}' is no regular expression ({error})."
            ) from error


def _known(tensors: Tensors, table: Table, wanted: Mapping[str, Any]) -> set[str]:
    """The tensors whose names are by a table among the paths that are wanted."""
    return {
        name for name, array in tensors.items() if our_name(name, array.ndim, table)[0] in wanted
    }


def _about(entry: Entry) -> dict[str, Any]:
    packages = ("stedm_jax", "numpy", "safetensors")
    return {
        "name": entry.name,
        "network": entry.network,
        "what": entry.what,
        "licence": entry.license,
        "source": entry.source,
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def unknown_files(entry: Entry, info: Mapping[str, Any]) -> list[str]:
    """Files whose checksums are not those that the registry knows, as far as it knows any."""
    known = tuple(entry.sha256.values())  # or the first digits
    return [
        name for name, digest in info["files"].items() if known and not digest.startswith(known)
    ]
