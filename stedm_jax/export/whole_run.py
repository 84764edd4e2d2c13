"""Writes a run as one folder (experiment/exported_run.py says what is in it)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_folder, read_json, sha256_of, write_json, write_text
from stedm_jax.common.version import __version__
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.exported_run import FORMAT, RECORD, WEIGHTS, is_export
from stedm_jax.experiment.kept import Kept
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.pinned import NAME as PINNED
from stedm_jax.experiment.saved import open_run
from stedm_jax.experiment.segmenters import ABOUT, SCORES, about_tiles, trained
from stedm_jax.export.hub_card import card_of_run
from stedm_jax.export.recorder import Recorder
from stedm_jax.inference.trained_segmenter import segmenter_of
from stedm_jax.training.weights_folder import write_tensors


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
      entries: names of the weights in the file.
      parameters: how many numbers they have.
      left_out: name -> why it was not exported.
    """

    entries: tuple[str, ...]
    parameters: int
    left_out: Mapping[str, str]


def export_run(
    run: Path,
    out: Path,
    *,
    parts: Sequence[str] = (),
    hub: bool = False,
    license: str = "",
    force: bool = False,
) -> Exported:
    """Writes a folder that `load_run` takes, completely or not at all.

    Args:
      run: a workdir, or an exported run.
      out: folder.
      parts: cells, or beginnings of their names; (): all that were trained.
      hub: begins the card with the metadata of a model hub, and names no patients.
      license: of the weights, for the card.
      force: replaces an exported run in `out`.

    Raises:
      UserError: nothing was trained, a part that cannot be exported, `out` is taken, or --hub
        without a license.
    """
    _check(out, hub, license, force)
    context = open_run(run)
    recorder = Recorder(context.kept or Kept())
    context = replace(context, kept=recorder)
    left_out = _load(context, parts)
    if not recorder.entries:
        said = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UserError(f"{run} has nothing to export that was trained to the end. {said}".strip())
    about = about_tiles(context) | ({"learnt": {}} if hub else {})
    with atomic_folder(out) as folder:
        write_tensors(folder / WEIGHTS, recorder.tensors)
        _write_settings(context, folder, hub)
        write_json(folder / ABOUT, about)
        for cell in (*recorder.cells, *_scaled(context, recorder.cells)):
            _write_cell(context, folder, cell)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
        record = {"format": FORMAT, "written_by": f"stedm_jax {__version__}"}
        record |= {"entries": recorder.entries, "files": digests}
        write_json(folder / RECORD, record)
        digest = {WEIGHTS: digests[WEIGHTS]}
        card = card_of_run(context, recorder.cells, about, digest, license, hub)
        write_text(folder / "README.md", card)
    parameters = sum(tensor.size for tensor in recorder.tensors.values())
    return Exported(tuple(recorder.entries), parameters, left_out)


def _check(out: Path, hub: bool, license: str, force: bool) -> None:
    if hub and not license:
        raise UserError(
            "--hub is for weights that others will use, who have to know under which license; give "
            "--license=cc-by-4.0, say, or --license=other."
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        if not force:
            raise UserError(f"{out} exists; give another --out, or --force to replace it.")
        if not is_export(out):
            raise UserError(
                f"{out} was not written by this command and is not replaced; give another --out."
            )


def _load(context: Context, parts: Sequence[str]) -> dict[str, str]:
    """Loads what is to be exported; what could not be loaded, and why.

    Raises:
      UserError: a part that is not there, or cannot be loaded.
    """
    known = list(_loaders(context))
    for part in parts:
        if not any(_is_part(name, part) for name, _ in known):
            listed = ", ".join(name for name, _ in known) or "none"
            raise UserError(
                f"--parts names {part}, which was not trained to the end in "
                f"{context.workdir.path}; there are: {listed}."
            )
    left_out = {}
    for name, load in known:
        if not parts or any(_is_part(name, part) for part in parts):
            try:
                load()
            except UserError as error:
                if parts:
                    raise
                left_out[name] = str(error)
    return left_out


def _is_part(name: str, part: str) -> bool:
    """Whether a cell is meant by a name, which may lack its seed or its point of the grid."""
    return f"{name}/".startswith(f"{part}/") or f"{name}@".startswith(f"{part}@")


def _loaders(context: Context) -> Iterator[tuple[str, Callable[[], object]]]:
    """Cell -> what loads all that it is made of."""
    for one in trained(context.workdir.path):
        if not one.taken:  # a choice among others, which are exported themselves
            yield one.cell, lambda one=one: segmenter_of(context, one.name, one.seed)
    for cell in Graph(context.settings).cells.values():
        if context.workdir.result(cell.name) is None:
            continue
        if cell.stage == "generator":
            yield cell.name, lambda cell=cell: _load_generator(context, cell)
        elif cell.stage == "autoencoder":
            yield cell.name, lambda cell=cell: Learned(context.at(cell.point)).autoencoder


def _load_generator(context: Context, cell: Cell) -> None:
    """Loads a generator with the weights of every set that it makes."""
    settings, learned = context.settings, Learned(context.at(cell.point))
    sets = [name for name, one in settings.synthesis.sets.items() if one.generator == cell.variant]
    for section in map(settings.synthesis_set, sets) if sets else [settings.synthesis]:
        learned.generator(cell.variant, section)


def _scaled(context: Context, cells: Sequence[str]) -> list[str]:
    """The cells that hold the scale of the latents that some cells use."""
    graph = Graph(context.settings).cells
    above = [graph[cell] for cell in cells if cell in graph and graph[cell].stage != "segmentation"]
    names = {context.at(cell.point).cell("latents") for cell in above}
    return sorted(name for name in names if context.workdir.result(name) is not None)


def _write_settings(context: Context, folder: Path, hub: bool) -> None:
    flat = read_json(context.workdir.path / "config.json") | {"data.tiles": ""}
    if hub:
        flat |= {key: [] for key in flat if key.startswith("grid.draws.")}  # names of patients
    write_json(folder / "config.json", flat)


def _write_cell(context: Context, folder: Path, cell: str) -> None:
    """What opening a run asks of a cell; no patients, and no folders of this machine."""
    source, place = context.workdir.path / cell, folder / cell
    place.mkdir(parents=True, exist_ok=True)
    done = context.workdir.result(cell)
    if done is not None:
        write_json(
            place / "done.json", {key: done[key] for key in ("shift", "scale") if key in done}
        )
    if (source / PINNED).is_file():
        noted = read_json(source / PINNED)
        write_json(place / PINNED, {part: _pinned(context, each) for part, each in noted.items()})
    if (source / SCORES).is_file():
        scores: dict[str, Any] = read_json(source / SCORES)
        keys = ("arm", "draw", "generator_seed", "seed", "checkpoint")
        kept = {key: scores[key] for key in keys if key in scores} | {"confusion": {}}
        write_json(place / SCORES, kept)


def _pinned(context: Context, weights: Mapping[str, str]) -> dict[str, str]:
    inside = weights["source"].removeprefix(f"{context.workdir.path}/")
    return {**weights, "source": inside if not inside.startswith("/") else Path(inside).name}
