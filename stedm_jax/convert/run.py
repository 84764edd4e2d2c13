"""A trained stage of a run as parameters to export: which networks it holds, and what its model card says.

runs/glas/autoencoder, runs/glas/diffusion, runs/glas/segmentation/labelled-0
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stedm_jax.convert.table import Table
from stedm_jax.convert.tables import convnext, diffusers_autoencoder, ldm_autoencoder, ldm_unet
from stedm_jax.errors import UserError
from stedm_jax.training.checkpoints import finished


@dataclass(frozen=True)
class Trained:
    """What a stage learnt.

    Attributes:
      parts: name of a network -> its parameters.
      tables: name -> table to the published names; diffusers: name -> table to those of diffusers and config.json.
      card: what is known of the training, see card.py.
    """

    parts: Mapping[str, Any]
    tables: Mapping[str, Table]
    diffusers: Mapping[str, tuple[Table, dict[str, Any]]]
    card: Mapping[str, Any]


def read_run(folder: Path) -> Trained:
    """The last checkpoint of a stage (its moving average, where one was kept).

    Raises:
      UserError: the folder is no stage of a run, or holds no whole checkpoint.
    """
    workdir = next((each for each in (folder, *folder.absolute().parents) if (each / "config.json").is_file()), None)
    if not (folder / "checkpoints").is_dir() or workdir is None:
        there = sorted(str(each.parent) for each in folder.glob("**/checkpoints") if each.is_dir())
        hint = f" Name one of {', '.join(there[:20])}." if there else ""
        raise UserError(f"{folder} is no trained stage of a run (it has no checkpoints).{hint}")
    stage = folder.absolute().relative_to(workdir.absolute()).parts[0]
    config = json.loads((workdir / "config.json").read_text())
    with finished(folder) as (store, step):
        params = jax.tree.map(np.asarray, store.read_params(step))
        card = _card(workdir, folder, stage, config) | {"step": step, "checkpoint": store.fingerprint(step)}
    if stage == "diffusion":
        parts = dict(params)
        styled = "style_block" in params["unet"]
        return Trained(parts, {"unet": ldm_unet.STEDM_TABLE if styled else ldm_unet.TABLE}, {}, card)
    if stage == "autoencoder":
        return Trained({"model": _only_autoencoder(params)}, {"model": ldm_autoencoder.TABLE}, _diffusers(config), card)
    encoder = config.get("segmentation.model.encoder", "")
    table = convnext.TABLE if encoder.startswith("convnext") else ()
    return Trained({"model": params}, {"model": table}, {}, card)


def _only_autoencoder(params: Any) -> Any:
    return {name: part for name, part in params.items() if name != "discriminator"}


def _diffusers(config: Mapping[str, Any]) -> dict[str, tuple[Table, dict[str, Any]]]:
    """Names and config.json of diffusers; only for widths at which its group norms are ours."""
    get = lambda key: config.get(f"autoencoder.model.{key}")  # noqa: E731
    widths = [get("channels") * each for each in get("multipliers") or ()]
    if get("kind") not in ("kl", "vq") or min(widths) < 128 or any(width % 32 for width in widths):
        return {}
    quantised = get("kind") == "vq"
    settings = {
        "_class_name": "VQModel" if quantised else "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": get("res_blocks"),
        "latent_channels": get("latent_channels"),
        "norm_num_groups": 32,
        "act_fn": "silu",
        "mid_block_add_attention": bool(get("attention")),
    }
    if quantised:
        settings |= {"num_vq_embeddings": get("codes"), "vq_embed_dim": get("latent_channels")}
    return {"model": (diffusers_autoencoder.table(len(widths)), settings)}


def _card(workdir: Path, folder: Path, stage: str, config: Mapping[str, Any]) -> dict[str, Any]:
    tiles = Path(str(config.get("data.tiles", "")).replace("{workdir}", str(workdir)))
    manifest = _json(tiles / "manifest.json")
    return {
        "title": f"{config.get('title') or config.get('name')}: {folder.absolute().relative_to(workdir.absolute())}",
        "stage": stage,
        "data": f"{config.get('name')}, tile set {manifest.get('name', tiles.name)}",
        "mpp": manifest.get("mpp"),
        "tile": manifest.get("tile"),
        "classes": [each["name"] for each in manifest.get("classes", [])],
        "patients": {split: len(names) for split, names in manifest.get("patients", {}).items()},
        "tiles": manifest.get("records", {}),
        "metrics": _metrics(workdir, folder, stage),
        "metrics_of": "the arm: test patients, over all its seeds" if stage == "segmentation" else "the stage",
        "steps": config.get(f"{stage}.train.steps"),
        "init_from": config.get(f"{stage}.init_from"),
        "versions": _json(workdir / "versions.json"),
    }


def _metrics(workdir: Path, folder: Path, stage: str) -> dict[str, float]:
    """Of this stage; of a segmenter those of its arm, over patients and seeds."""
    if stage != "segmentation":
        found = _json(workdir / stage / "done.json").get("metrics", {})
    else:
        arm = folder.name.rpartition("-")[0]
        found = _json(workdir / "report" / "summary.json").get("arms", {}).get(arm, {})
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
