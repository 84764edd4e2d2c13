"""The weights that a training starts from, where the configuration names some (`init_from`).

An entry is SOURCE, or PART=SOURCE where PART is a path in the parameters (unet, style/encoder). A
source is
    the folder of a cell        runs/catch/generator/stedm: its moving average, if one was kept; of
                                a segmenter the checkpoint that segmentation.checkpoint names
    a folder of weights         what `python -m stedm_jax.convert` wrote
    a name of the registry      weights/NAME, or NAME in the folder that STEDM_WEIGHTS names; of
                                several networks NAME/generator, NAME/autoencoder
Everything has to fit. With `init_partial`, what a source lacks starts fresh and what the network
lacks is left out; the same holds for what the task calls optional (a discriminator) where one side
lacks it as a whole. What was loaded from where is printed.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.counted import best_of_cell
from stedm_jax.training.checkpoints import finished
from stedm_jax.training.program import Program
from stedm_jax.training.rng import stream_key
from stedm_jax.training.weights_folder import INFO, is_converted, load_folder, read_shapes

WEIGHTS = "STEDM_WEIGHTS"
Leaves = Mapping[str, Any]


def initial_params(program: Program, entries: Sequence[str], partial: bool, seed: int) -> Any:
    """Parameters of the task with those of the entries in place; None where there is no entry.

    Args:
      program: of the training.
      entries: init_from; later ones win.
      partial: init_partial.
      seed: of the parameters that no entry gives.

    Raises:
      UserError: a source is not there or damaged, or does not fit; lists all names that do not.
    """
    if not entries:
        return None
    task = program.task
    abstract = flatten_dict(program.state.all_params, sep="/")
    found: dict[str, Any] = {}
    for entry in entries:
        part, source, wanted = _wanted(task, abstract, entry)
        given, origin = _read(source, part, "init_from")
        optional = () if part else _optional(task)
        chosen = _fit(wanted, given, f"init_from='{entry}'", partial, optional)
        found |= {f"{part}/{path}" if part else path: array for path, array in chosen.items()}
        rest = _listed("start fresh", [path for path in wanted if path not in chosen])
        rest += _listed("left out", [path for path in given if path not in chosen])
        count = len(chosen)
        print(f"{task.name}: {count} arrays of {part or 'all'} from {origin}{rest}", flush=True)
    if len(found) < len(abstract):
        fresh = flatten_dict(jax.jit(task.init)(stream_key(seed, "init")), sep="/")
        found = {path: found.get(path, leaf) for path, leaf in fresh.items()}
    return _tree(found, abstract)


def _wanted(task: Any, abstract: Leaves, entry: str) -> tuple[str, str, Leaves]:
    """Part and source of an entry, and the parameters that it is for."""
    part, source = split_entry(entry, abstract)
    if wanted := _below(abstract, part):
        return part, source, wanted
    raise UserError(
        f"init_from names the part '{part}', which {task.name} does not have; its parts are"
        f" {', '.join(sorted(_tops(abstract)))}, or a path below one of them."
    )


def check_shapes(task: Any, entries: Sequence[str], partial: bool) -> None:
    """Refuses, before anything runs, folders of weights that do not fit; their values are not read.
    Trained cells are compared when they are loaded; `check_sources` refuses what is not there.

    Raises:
      UserError: as `initial_params`.
    """
    if not entries:
        return
    abstract = flatten_dict(jax.eval_shape(task.init, jax.random.key(0)), sep="/")
    for entry in entries:
        part, source, wanted = _wanted(task, abstract, entry)
        try:
            folder = source_folder(source)
        except UserError:
            continue
        if not is_converted(folder):
            continue
        leaves = _shapes(folder)
        given, optional = _below(leaves, part) or leaves, () if part else _optional(task)
        _fit(wanted, given, f"init_from='{entry}'", partial, optional)


def check_folder(task: Any, source: str, key: str) -> None:
    """Refuses, before anything runs, a folder whose weights are not those of a whole task.

    Raises:
      UserError: as `load_weights`.
    """
    folder = source_folder(source, key)
    if is_converted(folder):
        wanted = flatten_dict(jax.eval_shape(task.init, jax.random.key(0)), sep="/")
        _fit(wanted, _shapes(folder), f"config.{key}={source}", False)


def _shapes(folder: Path) -> Leaves:
    """Arrays of the shapes of a folder of weights, whose values are not read."""
    shapes = read_shapes(folder).items()
    return {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes}


def _optional(task: Any) -> Sequence[str]:
    return getattr(task, "optional", ())


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
    wanted = flatten_dict(abstract, sep="/")
    given, origin = _read(source, "", key)
    chosen = _fit(wanted, given, f"config.{key}={source}", False)
    print(f"{key}: {len(chosen)} arrays from {origin}", flush=True)
    return _tree(chosen, wanted)


def source_folder(source: str, key: str = "init_from") -> Path:
    """Where a source lies.

    Raises:
      UserError: it is not there, or holds no weights.
    """
    folder = Path(source)
    name, *part = folder.parts or ("",)
    if not folder.exists() and (not part or part in (["generator"], ["autoencoder"])):
        weights = Path(os.environ.get(WEIGHTS, "weights"))
        folder = weights / source
        if not folder.exists():
            raise UserError(
                f"{key} names '{source}', which is no folder here, and no weights of the registry"
                f" that were converted: {folder} is not there. python -m stedm_jax.convert list"
                " shows the registry and where its files are to be had; then run python -m"
                f" stedm_jax.convert {name} FILE --out={weights / name}, or set {WEIGHTS} to the"
                " folder that holds it."
            )
    parts = [str(each.parent) for each in sorted(folder.glob(f"*/{INFO}"))]
    if (folder / INFO).is_file() and parts:
        raise UserError(
            f"{key} names '{source}', which holds several networks; name one of them: "
            f"{', '.join(parts)}."
        )
    if (folder / INFO).is_file() and not is_converted(folder):
        raise UserError(
            f"{key} names '{source}', which is an export under published names; export with"
            " --format=ours instead, or convert its file."
        )
    if not is_converted(folder) and not (folder / "checkpoints").is_dir():
        raise UserError(
            f"{key} names '{source}', which is neither the folder of a trained cell (it would hold"
            " checkpoints), nor a folder of converted weights, nor a name of the registry (python"
            " -m stedm_jax.convert list)."
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
    """Refuses, before anything runs, entries whose sources are not there; errors as above."""
    for entry in entries:
        source_folder(split_entry(entry)[1])


def _read(source: str, part: str, key: str) -> tuple[Leaves, str]:
    folder = source_folder(source, key)
    if is_converted(folder):
        params, info = load_folder(folder)
        leaves = flatten_dict(params, sep="/")
        averages = ", averages over its training" if info.get("averages") else ""
        origin = f"{folder} ({info['name']}{averages}, {info['sha256'][:12]})"
        return _below(leaves, part) or leaves, origin
    with finished(folder, best_of_cell(folder)) as (store, step):
        params = jax.tree.map(np.asarray, store.read_params(step))
    return _below(flatten_dict(params, sep="/"), part), f"{folder}, step {step}"


def _fit(
    wanted: Leaves, given: Leaves, what: str, partial: bool, optional: Sequence[str] = ()
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
    found = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in lists if names)
    strange = "" if chosen else " at all: they have no name in common"
    hint = ""
    if chosen and not shapes and what.startswith("init_from"):
        hint = " To start with what fits and the rest fresh, set init_partial=True."
    raise UserError(f"The weights of {what} do not fit this network{strange}. {found}.{hint}")


def _tree(leaves: Leaves, abstract: Leaves) -> Any:
    arrays = {path: jnp.asarray(array, abstract[path].dtype) for path, array in leaves.items()}
    return unflatten_dict(arrays, sep="/")


def _below(leaves: Leaves, part: str) -> Leaves:
    if not part:
        return leaves
    start = f"{part}/"
    return {path.removeprefix(start): x for path, x in leaves.items() if path.startswith(start)}


def _tops(paths: Iterable[str]) -> set[str]:
    return {path.split("/")[0] for path in paths}


def _listed(what: str, paths: Sequence[str]) -> str:
    """ "; 12 start fresh (unet/middle_block, style/head)"; "" for none."""
    parts = list(dict.fromkeys("/".join(path.split("/")[:2]) for path in paths))
    more = ", ..." if len(parts) > 6 else ""
    return f"; {len(paths)} {what} ({', '.join(parts[:6])}{more})" if paths else ""
