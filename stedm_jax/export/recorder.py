"""Finds out which weights a network is made of, by loading it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from stedm_jax.experiment.exported_run import (
    cell_entry,
    source_entry,
    tensors_of,
    without_optional,
)
from stedm_jax.experiment.kept import Best, Kept
from stedm_jax.experiment.pinned import Weights
from stedm_jax.training.task import Task


class Recorder(Kept):
    """Reads weights as another does, and keeps what was read.

    Attributes:
      tensors: all of them, under their names in an exported run.
      entries: entry -> what its weights come from.
      cells: names of the cells that were read.
    """

    def __init__(self, inner: Kept):
        self.inner = inner
        self.tensors: dict[str, np.ndarray] = {}
        self.entries: dict[str, dict[str, str]] = {}
        self.cells: list[str] = []

    def of_cell(
        self, workdir: Path, cell: str, task: Task, mesh: Mesh, which: str, best: Best
    ) -> tuple[Any, dict[str, str]]:
        """As Kept.of_cell."""
        params, origin = self.inner.of_cell(workdir, cell, task, mesh, which, best)
        self._keep(cell_entry(cell, which), without_optional(task, params), origin)
        self.cells = list(dict.fromkeys([*self.cells, cell]))
        return params, origin

    def of_source(self, abstract: Any, source: str, key: str) -> tuple[Any, Weights]:
        """As Kept.of_source."""
        params, weights = self.inner.of_source(abstract, source, key)
        self._keep(source_entry(key, source), params, {"checkpoint_sha256": weights.sha256})
        return params, weights

    def _keep(self, entry: str, params: Any, origin: Mapping[str, str]) -> None:
        if entry not in self.entries:
            tensors = tensors_of(entry, params)
            self.tensors |= {name: np.asarray(leaf) for name, leaf in tensors.items()}
            self.entries[entry] = dict(origin)
