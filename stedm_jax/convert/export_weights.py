"""Our weights out: safetensors under our names or the published ones, with a model card."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of, write_json, write_text
from stedm_jax.convert.model_card import model_card
from stedm_jax.convert.published_tables import Form
from stedm_jax.convert.torch_names import Table, to_torch
from stedm_jax.training.weights_folder import (
    INFO,
    PARAMS,
    new_folder,
    write_params,
    write_tensors,
)

FORMATS = ("ours", "published", "diffusers")
_DIFFUSERS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Trained:
    """Weights to export.

    Attributes:
      parts: name of a network -> its parameters; the one of a single network is called "model".
      network: what they are of, in words.
      card: what is known of the training, as model_card.py takes it.
      loads: what the published names are those of; "": there are none.
      tables: part -> table to the published names; the usual rules where there is none.
      form: makes the published files of the only part, where they are not one file.
      whole: stem of a file -> what makes all of its tensors under published names, of more than the
        parts; in place of `tables` and `form`.
      diffusers: of an autoencoder that diffusers can load, the table to its names there, and
        config.json.
    """

    parts: dict[str, Any]
    network: str
    card: Mapping[str, Any]
    loads: str = ""
    tables: Mapping[str, Table] = field(default_factory=dict)
    form: Form | None = None
    whole: Mapping[str, Callable[[], Mapping[str, np.ndarray]]] = field(default_factory=dict)
    diffusers: tuple[Table, dict[str, Any]] | None = None


def export(trained: Trained, out: Path, format: str = "ours", force: bool = False) -> None:
    """Writes a folder with weights and README.md, completely or not at all.

    Args:
      trained: the weights.
      out: folder.
      format: of FORMATS. "ours" gives one converted folder with all parts, which `init_from`
        takes; "published" and "diffusers" the parts by themselves as safetensors, under the names
        of PyTorch. All are exact: nothing is rounded.
      force: replaces a folder that was written before.

    Raises:
      UserError: the weights have no such format, or `out` is not to be replaced.
    """
    card, network = dict(trained.card), trained.network
    if format == "published":
        card["names"] = f"those of {trained.loads}"
    info = {"name": card.get("title") or network, "network": network, "format": format}
    files = dict(_files(trained, format))
    with new_folder(out, force) as folder:
        if format == "ours":
            parts = trained.parts
            tree = parts["model"] if list(parts) == ["model"] else parts
            write_params(folder, tree, info | {"card": card})
            digests = {PARAMS: sha256_of(folder / PARAMS)}
        else:
            digests = {name: write_tensors(folder / name, files[name], "pt") for name in files}
            write_json(folder / INFO, info | {"files": digests, "card": card})
        if format == "diffusers" and trained.diffusers:
            write_json(folder / "config.json", trained.diffusers[1])
        write_text(folder / "README.md", model_card(card, digests, network))


def _files(trained: Trained, format: str) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
    """The files of a format with names of PyTorch: name of a file, its tensors."""
    what = f"{trained.card.get('title') or 'These weights'} ({trained.network})"
    if format == "diffusers":
        if not trained.diffusers:
            raise UserError(
                "--format=diffusers is for stages that trained an autoencoder of the kind vq or kl "
                "whose levels all have 128 channels or more (below that our group norms differ); "
                f"{what} is none. Export it as ours or published."
            )
        yield _DIFFUSERS, to_torch(trained.parts["model"], trained.diffusers[0])
    elif format == "published":
        if not trained.loads:
            raise UserError(
                f"{what} has no published names; give --format=ours. Weights of a segmenter or "
                "denoiser that were exported once have them only in their stage's folder in the "
                "run."
            )
        yield from ((f"{stem}.safetensors", make()) for stem, make in trained.whole.items())
        for part, params in trained.parts.items() if not trained.whole else ():
            tensors = to_torch(params, trained.tables.get(part, ()))
            files = trained.form(tensors) if trained.form else {part: tensors}
            yield from ((f"{stem}.safetensors", each) for stem, each in files.items())
