"""A run as one folder, with all weights in one file; it opens like a workdir.

    model.safetensors   all weights, as ENTRY/PATH: ENTRY is the name of a cell
    config.json         the settings of the run
    segmenters.json     classes, colors, microns, side and stain of its tiles
    export.json         entry -> where its weights come from; file -> SHA-256
    README.md           the card

and of each cell the small files that its workdir has. There is no code in any of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import read_json, sha256_of, sha256_of_json
from stedm_jax.experiment.kept import Best, Kept, placed
from stedm_jax.experiment.pinned import Weights
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.sharding import place
from stedm_jax.training.state import check_params
from stedm_jax.training.task import Task

RECORD, WEIGHTS = "export.json", "model.safetensors"
FORMAT = 1


def is_export(folder: Path) -> bool:
    """Whether a folder is an exported run."""
    return (folder / RECORD).is_file()


def cell_entry(cell: str, which: str) -> str:
    """Under which name weights of a cell are exported; arguments as learn.restore."""
    if which == "ema":
        return cell
    return f"{cell}:{which}" if which.startswith(("params", "ema:")) else source_entry(cell, which)


def source_entry(key: str, source: str) -> str:
    """Under which name weights of a source are exported, which does not show its folder."""
    return f"{key}:{sha256_of_json(source)[:8]}"


def without_optional(task: Task, params: dict[str, Any]) -> dict[str, Any]:
    """Parameters without those that only training needs, such as a discriminator's."""
    optional = getattr(task, "optional", ())
    return {name: part for name, part in params.items() if name not in optional}


@dataclass(frozen=True)
class Exported(Kept):
    """Reads the weights of an exported run.

    Attributes:
      folder: of the run.
      entries: name -> what its weights come from.
    """

    folder: Path
    entries: Mapping[str, Mapping[str, str]]

    @classmethod
    def open(cls, folder: Path) -> "Exported":
        """Compares all files with their checksums.

        Raises:
          UserError: one is missing or was changed, or a later version wrote them.
        """
        record = read_json(folder / RECORD)
        if not isinstance(record, dict) or not {"format", "entries", "files"} <= set(record):
            raise UserError(f"{folder / RECORD} is no record of an export; copy the folder again.")
        if record["format"] != FORMAT:
            raise UserError(
                f"{folder / RECORD} has the format {record['format']}, and this version of "
                f"stedm_jax reads {FORMAT}; use the version that made the folder."
            )
        known = record["files"]
        if lacking := [name for name in (WEIGHTS, "config.json") if name not in known]:
            raise UserError(
                f"{folder / RECORD} has no checksum of {', '.join(lacking)}; export the run again."
            )
        for name, digest in known.items():
            if not (folder / name).is_file():
                raise UserError(f"{folder} is not complete: {name} is missing. Copy it again.")
            if sha256_of(folder / name) != digest:
                raise UserError(
                    f"{folder / name} is damaged or was changed after the export; copy the folder "
                    "again, or export the run again."
                )
        return cls(folder, record["entries"])

    def of_cell(
        self, workdir: Path, cell: str, task: Task, mesh: Mesh, which: str, best: Best
    ) -> tuple[Any, dict[str, str]]:
        """As Kept.of_cell; of `which` and `best`, what the run used was exported."""
        del workdir, best
        params, origin = self._read(cell_entry(cell, which))
        abstract = without_optional(task, placed(task, mesh))
        check_params(params, abstract)
        return place(params, jax.tree.map(lambda leaf: leaf.sharding, abstract)), dict(origin)

    def of_source(self, abstract: Any, source: str, key: str) -> tuple[Any, Weights]:
        """As Kept.of_source."""
        params, origin = self._read(source_entry(key, source))
        check_params(params, abstract)
        return jax.tree.map(jnp.asarray, params), Weights(source, origin["checkpoint_sha256"])

    def _read(self, entry: str) -> tuple[dict[str, Any], Mapping[str, str]]:
        if entry not in self.entries:
            raise UserError(
                f"{self.folder} was exported without {entry}; it has "
                f"{', '.join(self.entries)}. Export the run again, with that among --parts."
            )
        start = f"{entry}/"
        try:
            with safe_open(self.folder / WEIGHTS, "np") as file:
                names = file.keys()  # it is no mapping, and cannot be iterated
                wanted = [name for name in names if name.startswith(start)]
                leaves = {name.removeprefix(start): file.get_tensor(name) for name in wanted}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.folder / WEIGHTS} cannot be read ({error}).") from error
        return nested(leaves), self.entries[entry]


def tensors_of(entry: str, params: Any) -> dict[str, Any]:
    """The weights of an entry, under their names in the file."""
    return {f"{entry}/{path}": leaf for path, leaf in named(params).items()}
