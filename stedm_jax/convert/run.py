"""A trained stage of a run, or a converted folder, as parameters to export: what it holds, and what
its card says.

Stages are runs/glas/autoencoder, runs/glas/diffusion, runs/glas/segmentation/labelled-0
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.convert.registry import NETWORKS, entries, form, tables
from stedm_jax.convert.table import Form, Table
from stedm_jax.convert.tables import (
    convnext,
    diffusers_autoencoder,
    fcn8s,
    ldm_autoencoder,
    ldm_unet,
    taef2,
)
from stedm_jax.models.discriminator import own
from stedm_jax.models.mit import SIZES
from stedm_jax.models.segmenter import CUSTOM
from stedm_jax.models.vgg import WIDTHS
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.arm_networks import NETWORKS as SEGMENTERS
from stedm_jax.training.checkpoints import finished
from stedm_jax.training.weights_folder import load_folder


@dataclass(frozen=True)
class Trained:
    """What a stage learnt.

    Attributes:
      parts: name of a network -> its parameters.
      tables: name -> table to the published names; forms: name -> what makes published files, where
        it is not one.
      diffusers: name -> table to the names of diffusers and config.json.
      card: what is known of the training, see card.py.
      loads: what the published names are those of; "": there are none.
      network: what it is, in words.
    """

    parts: Mapping[str, Any]
    tables: Mapping[str, Table]
    card: Mapping[str, Any]
    loads: str
    network: str
    forms: Mapping[str, Form] = field(default_factory=dict)
    diffusers: Mapping[str, tuple[Table, dict[str, Any]]] = field(default_factory=dict)


def read_converted(folder: Path) -> Trained:
    """What a converted folder holds; its weights have published names if they are of one of the
    registry's networks.

    Raises:
      UserError: it is damaged.
    """
    params, info = load_folder(folder)
    network, known = str(info["network"]), entries().get(str(info["name"]))
    card = info.get("card") or {
        "title": info["name"],
        "licence": info.get("licence", known.licence if known else ""),
        "intended_use": "What its publisher says; not a medical device.",
        "limits": "Those of the data that its publisher trained it on; see the source.",
        "data": f"weights published by others: {info.get('source', 'unknown')}",
        "what": info.get("what"),
    }
    if network not in NETWORKS:
        return Trained({"model": params}, {}, card, "", network)
    made = form(network)
    forms = {"model": made} if made else {}
    return Trained(
        {"model": params},
        {"model": tables(network)[0]},
        card,
        "the network as published",
        network,
        forms,
    )


def read_run(folder: Path) -> Trained:
    """The last checkpoint of a stage (its moving average, where one was kept).

    Raises:
      UserError: the folder is no stage of a run, or holds no whole checkpoint.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; name a stage of a run or a converted folder."
        )
    workdir = next(
        (each for each in (folder, *folder.parents) if (each / "config.json").is_file()), None
    )
    if not (folder / "checkpoints").is_dir() or workdir is None:
        there = sorted(str(each.parent) for each in folder.glob("**/checkpoints") if each.is_dir())
        hint = f" Name one of {', '.join(there[:20])}." if there else ""
        raise UserError(f"{folder} is no trained stage of a run (it has no checkpoints).{hint}")
    stage = folder.relative_to(workdir).parts[0]
    config = json.loads((workdir / "config.json").read_text())
    with finished(folder) as (store, step):
        params = jax.tree.map(np.asarray, store.read_params(step))
        card = _card(workdir, folder, stage, config) | {
            "step": step,
            "checkpoint": store.fingerprint(step),
        }
    network = f"stage {stage} of stedm_jax"
    if stage == "diffusion":
        styled = "style_block" in params["unet"]
        table, loads = (
            (ldm_unet.TABLE, "LDM's UNet") if not styled else (ldm_unet.STEDM_TABLE, "STEDM's UNet")
        )
        return Trained(
            dict(params), {"unet": table}, card, f"{loads} (unet); our own for the rest", network
        )
    if stage == "guided":
        loads = "Large-Image-Diffusion's denoiser and embedder (model.diffusion_model, cond_stage_model)"
        return Trained({"model": params}, {"model": ldm_unet.GUIDED_TABLE}, card, loads, network)
    if stage == "autoencoder":
        parts = {"model": own(params)}
        if config.get("autoencoder.model.kind") == "taef2":
            loads = "the encoder and the decoder of TAESD's package"
            return Trained(
                parts, {"model": taef2.TABLE}, card, loads, network, {"model": taef2.files}
            )
        loads = "LDM's autoencoders, without loss and discriminator"
        return Trained(
            parts,
            {"model": ldm_autoencoder.TABLE},
            card,
            loads,
            network,
            diffusers=_diffusers(config),
        )
    if "head" in params:  # on features of the guided denoiser, which has an export of its own
        return Trained(dict(params), {}, card, "", f"{network}, a head on features")
    table, loads = _segmenter(_of_arm(config, folder.name.rpartition("-")[0]))
    return Trained({"model": params}, {"model": table}, card, loads, network)


def _of_arm(config: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """The flat configuration with what the network and the changes of an arm, or of the judge, make
    of it."""
    section = f"segmentation.{'' if arm == JUDGE else 'arms.'}{arm}"
    get = lambda key, default: config.get(f"{section}.{key}", default)  # noqa: E731
    changes = [*SEGMENTERS.get(get("network", "model"), {}).items(), *get("changes", ())]
    return dict(config) | {f"segmentation.{key}": value for key, value in changes}


def _segmenter(config: Mapping[str, Any]) -> tuple[Table, str]:
    """Table to the published names, and what they are the names of."""
    get = lambda key: config.get(f"segmentation.model.{key}")  # noqa: E731
    if get("kind") == "fcn8s":
        if (
            get("fcn8s.hidden") not in (None, 4096)
            or tuple(get("fcn8s.widths") or WIDTHS) != WIDTHS
        ):
            return fcn8s.TABLE, "a network like torchvision's vgg16, of other widths"
        return (
            fcn8s.TABLE,
            "torchvision's vgg16, with score_fr, score_pool4, score_pool3 in place of classifier.6",
        )
    if get("kind") == "dcan":
        return (), "a contour-aware network whose `features` are torchvision's vgg16"
    encoder = str(get("encoder"))
    sizes = {key: get(key) for key in ("widths", "depths", "heads", "reductions")}
    if encoder == CUSTOM:
        same = (
            name
            for name, size in SIZES.items()
            if {key: list(value) for key, value in size.items()} == sizes
        )
        encoder = next(same, "")
    table = convnext.TABLE if encoder.startswith("convnext") else ()
    name = f"'{'tu-' if table else ''}{encoder}'" if encoder else "a MiT of sizes that smp has not"
    change = "" if get("norm") == "batch" else ", but with group norms, which smp does not have"
    return table, f"smp.Unet({name}, decoder_channels={tuple(get('decoder') or ())}){change}"


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
    noted = (
        _json(workdir / "segmentation" / "segmenters.json").get("stain") or {}
    )  # the tiles may be elsewhere by now
    return {
        "title": f"{config.get('title') or config.get('name')}: {folder.relative_to(workdir)}",
        "stage": stage,
        "data": f"{config.get('name')}, tile set {manifest.get('name', tiles.name)}",
        "mpp": manifest.get("mpp"),
        "tile": manifest.get("tile"),
        "stain_norm": noted.get("kind") or manifest.get("source", {}).get("stain_norm") or None,
        "classes": [each["name"] for each in manifest.get("classes", [])],
        "patients": {split: len(names) for split, names in manifest.get("patients", {}).items()},
        "tiles": manifest.get("records", {}),
        "metrics": _metrics(workdir, folder, stage),
        "metrics_of": "the arm: test patients, over all its seeds"
        if stage == "segmentation"
        else "the stage",
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
