"""Our weights out: safetensors under our names or the published ones, with a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of
from stedm_jax.convert.card import model_card
from stedm_jax.convert.table import Form, Table, to_torch
from stedm_jax.training.weights_folder import (
    INFO,
    PARAMS,
    new_folder,
    write_params,
    write_tensors,
)

FORMATS = ("ours", "published", "diffusers")
_DIFFUSERS = "diffusion_pytorch_model.safetensors"


def export_parts(
    parts: Mapping[str, Mapping[str, Any]],
    out: Path,
    *,
    card: Mapping[str, Any],
    network: str,
    tables: Mapping[str, Table],
    forms: Mapping[str, Form] | None = None,
    format: str = "ours",
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Writes a folder with weights and README.md, completely or not at all.

    Args:
      parts: name of a network -> its parameters; the one of a single network is called "model".
      out: folder.
      card: see card.model_card.
      network: what it is, in words.
      tables: part -> table to the published names; the usual rules where there is none.
      forms: part -> what makes the published files of its tensors; one file of the part's name
        where there is none.
      format: "ours" gives one converted folder with all parts, which `init_from` takes; "published"
        and "diffusers" the parts by themselves as safetensors, under the names of PyTorch. All are
        exact: nothing is rounded.
      settings: of config.json, for "diffusers".
      force: replaces a folder that was written before.

    Raises:
      UserError: the format is unknown, or `out` is not to be replaced.
    """
    if format not in FORMATS:
        raise UserError(f"--format is '{format}'; valid are {', '.join(FORMATS)}.")
    with new_folder(out, force) as folder:
        info: dict[str, Any] = {
            "name": card.get("title") or network,
            "network": network,
            "format": format,
        }
        if format == "ours":
            tree = parts["model"] if list(parts) == ["model"] else parts
            write_params(folder, tree, info | {"card": dict(card)})
            files = {PARAMS: sha256_of(folder / PARAMS)}
        else:
            files = {}
            for part, params in parts.items():
                tensors = to_torch(params, tables.get(part, ()))
                form = (forms or {}).get(part) if format == "published" else None
                for stem, each in (form(tensors) if form else {part: tensors}).items():
                    name = _DIFFUSERS if format == "diffusers" else f"{stem}.safetensors"
                    files[name] = write_tensors(folder / name, each, "pt")
            if settings:
                (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
            (folder / INFO).write_text(
                json.dumps(info | {"files": files, "card": dict(card)}, indent=1) + "\n"
            )
        (folder / "README.md").write_text(model_card(card, files, network))
