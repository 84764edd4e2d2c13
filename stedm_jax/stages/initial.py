"""The weights that a training starts from, where the configuration names some (`init_from`).

An entry is a SOURCE, or PART=SOURCE where PART is a path in the parameters (unet, style/encoder). A
source is
    a stage folder of a run     runs/catch/diffusion: its moving average, if one was kept; with a
    PART, that part a converted folder          what `python -m stedm_jax.convert` wrote
    a name of the registry      weights/NAME, or NAME in the folder that STEDM_WEIGHTS names
Everything has to fit; with `init_partial` what a source lacks starts fresh, and what the network
lacks is left out. So it always is with what the task calls optional (a discriminator), where one
side lacks it as a whole. What was loaded from where is printed.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.convert.registry import names
from stedm_jax.convert.table import flatten, unflatten
from stedm_jax.training.checkpoints import finished
from stedm_jax.training.program import Program
from stedm_jax.training.rng import stream_key
from stedm_jax.training.weights_folder import INFO, is_converted, load_folder

WEIGHTS = "STEDM_WEIGHTS"


def initial_params(program: Program, entries: Sequence[str], partial: bool, seed: int) -> Any:
    """Parameters of the task with those of the entries in place; None where there is no entry.

    Args:
      program: of the training.
      entries: config.<stage>.init_from; later ones win.
      partial: config.<stage>.init_partial.
      seed: of the parameters that no entry gives.

    Raises:
      UserError: a source is not there or damaged, or does not fit; lists all names that do not.
    """
    if not entries:
        return None
    abstract = flatten(program.state.all_params)
    found: dict[str, Any] = {}
    for entry in entries:
        part, source = split_entry(entry, abstract)
        wanted = _below(abstract, part)
        if not wanted:
            raise UserError(
                f"init_from names the part '{part}', which {program.task.name} does not have; its parts are "
                f"{', '.join(sorted({path.split('/')[0] for path in abstract}))}, or a path below one of them."
            )
        given, origin = _read(source, part, "init_from")
        optional = () if part else getattr(program.task, "optional", ())
        chosen = _fit(wanted, given, f"init_from='{entry}'", partial, optional)
        found |= {f"{part}/{path}" if part else path: array for path, array in chosen.items()}
        left = _told("start fresh", [path for path in wanted if path not in chosen])
        left += _told("left out", [path for path in given if path not in chosen])
        print(
            f"{program.task.name}: {len(chosen)} arrays of {part or 'all'} from {origin}{left}",
            flush=True,
        )
    if len(found) < len(abstract):
        fresh = flatten(jax.jit(program.task.init)(stream_key(seed, "init")))
        found = {path: found.get(path, leaf) for path, leaf in fresh.items()}
    return unflatten(
        {path: jnp.asarray(array, abstract[path].dtype) for path, array in found.items()}
    )


def load_weights(abstract: Any, source: str, key: str) -> Any:
    """All parameters of a network that is used as it is, from one source.

    Args:
      abstract: its parameters; leaves need a shape and a dtype only.
      source: as in an entry.
      key: of the configuration, for errors.

    Raises:
      UserError: none is named, or as for `initial_params`.
    """
    if not source:
        raise UserError(
            f"config.{key} is empty; name the weights of this encoder, which is not trained here."
        )
    wanted = flatten(abstract)
    given, origin = _read(source, "", key)
    chosen = _fit(wanted, given, f"config.{key}={source}", False)
    print(f"{key}: {len(chosen)} arrays from {origin}", flush=True)
    return unflatten(
        {path: jnp.asarray(array, wanted[path].dtype) for path, array in chosen.items()}
    )


def _told(what: str, paths: Sequence[str]) -> str:
    parts = list(dict.fromkeys("/".join(path.split("/")[:2]) for path in paths))
    return (
        f"; {len(paths)} {what} ({', '.join(parts[:6])}{', ...' if len(parts) > 6 else ''})"
        if paths
        else ""
    )


def _tops(paths: Iterable[str]) -> set[str]:
    return {path.split("/")[0] for path in paths}


def _below(leaves: dict[str, Any], part: str) -> dict[str, Any]:
    if not part:
        return leaves
    return {
        path.removeprefix(f"{part}/"): leaf
        for path, leaf in leaves.items()
        if path.startswith(f"{part}/")
    }


def _fit(
    wanted: dict[str, Any],
    given: dict[str, Any],
    what: str,
    partial: bool,
    optional: Sequence[str] = (),
) -> dict[str, Any]:
    # Of a part that both have, all has to fit: half a discriminator is a mistake.
    spared = set(optional) - (_tops(wanted) & _tops(given))
    missing = [path for path in wanted if path not in given and not spared & _tops([path])]
    unknown = [path for path in given if path not in wanted and not spared & _tops([path])]
    chosen = {path: array for path, array in given.items() if path in wanted}
    shapes = [
        f"{path} {tuple(array.shape)}, needed {tuple(wanted[path].shape)}"
        for path, array in chosen.items()
        if tuple(array.shape) != tuple(wanted[path].shape)
    ]
    if not shapes and chosen and (partial or not (missing or unknown)):
        return chosen
    lists = (("of another shape", shapes), ("missing", missing), ("unknown", unknown))
    strange = "" if chosen else " at all: none of their names is one of its"
    told = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in lists if names)
    hint = (
        ""
        if shapes or not chosen or not what.startswith("init_from")
        else " To start with what fits and the rest fresh, set init_partial=True."
    )
    raise UserError(f"The weights of {what} do not fit this network{strange}. {told}.{hint}")


def source_folder(source: str, key: str = "init_from") -> Path:
    """Where a source lies.

    Raises:
      UserError: it is not there, or is nothing that holds weights.
    """
    folder = Path(source)
    if source in names() and not folder.exists():
        folder = Path(os.environ.get(WEIGHTS, "weights")) / source
        if not folder.exists():
            raise UserError(
                f"{key} names '{source}' of the registry, which has not been converted yet: {folder} is not there. "
                f"Get the file (python -m stedm_jax.convert list says where) and run python -m stedm_jax.convert "
                f"{source} FILE --out={folder}; or set {WEIGHTS} to the folder that holds it."
            )
    if (folder / INFO).is_file() and not is_converted(folder):
        raise UserError(
            f"{key} names '{source}', which is an export under published names; export with --format=ours instead, or "
            "convert its file."
        )
    if not is_converted(folder) and not (folder / "checkpoints").is_dir():
        raise UserError(
            f"{key} names '{source}', which is neither a stage folder of a run (it would hold checkpoints), nor a "
            f"converted folder, nor a name of the registry ({', '.join(names())})."
        )
    return folder


def split_entry(entry: str, paths: Iterable[str] = ()) -> tuple[str, str]:
    """PART, "" for all, and SOURCE of an entry; a source may have "=" in its path.

    Args:
      entry: of init_from.
      paths: of the parameters, where they are known: what begins one of them is a part, whatever
        lies on the disk.
    """
    part, equals, source = entry.partition("=")
    if not equals or part.startswith(("/", ".")):
        return "", entry
    part = part.strip("/")
    known = any(path.startswith(f"{part}/") for path in paths)
    return ("", entry) if not known and Path(entry).exists() else (part, source)


def check_sources(entries: Sequence[str]) -> None:
    """Refuses, before anything runs, entries whose sources are not there; arguments and errors as
    above."""
    for entry in entries:
        source_folder(split_entry(entry)[1])


def _read(source: str, part: str, key: str) -> tuple[dict[str, Any], str]:
    folder = source_folder(source, key)
    if is_converted(folder):
        params, info = load_folder(folder)
        leaves = flatten(params)
        averages = ", averages over its training" if info.get("averages") else ""
        return _below(
            leaves, part
        ) or leaves, f"{folder} ({info['name']}{averages}, {info['sha256'][:12]})"
    with finished(folder) as (store, step):
        params = jax.tree.map(np.asarray, store.read_params(step))
    return _below(flatten(params), part), f"{folder}, step {step}"
