"""What a run learned, or a converted folder holds, as weights to export with their model card."""

from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.convert.export_weights import Trained
from stedm_jax.convert.published_tables import FORMS, tables
from stedm_jax.convert.run_card import data_of_run, read_if_there
from stedm_jax.convert.stedm_checkpoint import GENERATOR, NAME
from stedm_jax.convert.stedm_export import FILE, exportable, of_run, read_checkpoint
from stedm_jax.convert.tables import (
    convnext,
    diffusers_autoencoder,
    fcn8s,
    ldm_autoencoder,
    ldm_unet,
    taef2,
)
from stedm_jax.convert.torch_names import Table
from stedm_jax.experiment.counted import best_of
from stedm_jax.experiment.points import without_point
from stedm_jax.experiment.saved import check_made_with, saved_settings
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.models.mit import SIZES
from stedm_jax.models.published_sizes import PUBLISHED
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.autoencoder import TAEF2, AutoencoderModel
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.names import MIT
from stedm_jax.settings.root import Settings
from stedm_jax.settings.segmentation import Fcn8s, SegmenterModel
from stedm_jax.tasks.autoencoder import own
from stedm_jax.training.checkpoints import finished
from stedm_jax.training.weights_folder import INFO, is_converted, load_folder


def read(folder: Path) -> Trained:
    """What a converted folder or the folder of a trained cell holds; errors as below."""
    place = folder.parent if folder.name == GENERATOR else folder
    info = read_if_there(place / INFO)
    if info.get("network") == NAME:  # a whole checkpoint, in several folders
        return read_checkpoint(place, _published_card(info), info["names"])
    return read_converted(folder) if is_converted(folder) else read_run(folder)


def read_converted(folder: Path) -> Trained:
    """What a converted folder holds; its weights have published names if they are of one of the
    registry's networks.

    Raises:
      UserError: it is damaged.
    """
    params, info = load_folder(folder)
    card = info.get("card") or _published_card(info)
    parts, name = {"model": params}, str(info["network"])
    if name not in PUBLISHED:
        return Trained(parts, name, card)
    names = {"model": tables(name)[0]}
    return Trained(parts, name, card, "the network as published", names, FORMS.get(name))


def _published_card(info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": info["name"],
        "licence": info.get("licence"),
        "intended_use": "What its publisher says; not a medical device.",
        "limits": "Those of the data that its publisher trained it on; see the source.",
        "data": f"weights published by others: {info.get('source', 'unknown')}",
        "what": info.get("what"),
    }


def read_run(folder: Path) -> Trained:
    """The checkpoint of a cell that counts (its moving average, where one was kept): the last; of a
    segmenter the one that segmentation.checkpoint names.

    Args:
      folder: of the cell: runs/glas/autoencoder, runs/glas/generator/stedm,
        runs/glas/segmentation/labelled/0.

    Raises:
      UserError: the folder is no such cell, or holds no whole checkpoint.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; name a stage of a run or a converted folder."
        )
    workdir = next((each for each in folder.parents if (each / "config.json").is_file()), None)
    if not (folder / "checkpoints").is_dir() or workdir is None:
        there = sorted(str(each.parent) for each in folder.glob("**/checkpoints") if each.is_dir())
        hint = f" Name one of {', '.join(there[:20])}." if there else ""
        raise UserError(f"{folder} is no trained stage of a run (it has no checkpoints).{hint}")
    settings, cell = saved_settings(workdir), str(folder.relative_to(workdir))
    check_made_with(Workdir(workdir), settings, cell)
    section = _section(settings, cell)
    with finished(folder, best_of(section)) as (store, step):
        params = jax.tree.map(np.asarray, store.read_params(step))
        origin = {"step": step, "checkpoint": store.fingerprint(step)}
    card = _card(workdir, cell, settings, section) | origin
    stage = without_point(cell).split("/")[0]
    if stage == "generator" and exportable(params, section):
        return _whole(workdir, cell, settings, params, section, card)
    return _named(stage, params, section, card)


def _whole(
    workdir: Path, cell: str, settings: Settings, params: Any, section: Diffusion, card: Any
) -> Trained:
    """A denoiser as the released code has it, with the first stage where that is LDM's."""
    _, _, point = cell.partition("@")
    names = ("autoencoder", f"autoencoder@{point.split('.')[0]}")
    found = [workdir / name for name in names if (workdir / name / "checkpoints").is_dir()]
    quantized = settings.autoencoder.model.kind == "vq"
    loads = "a checkpoint of the code released with STEDM"
    if not (found and quantized):
        why = "there is none here" if quantized else "it is none of the kind vq"
        loads += f", without the first stage: {why}"
    if settings.latents.scale != 1:
        loads += "; its latents are scaled, which that code does not do"

    def file() -> Mapping[str, np.ndarray]:
        first = None
        if found and quantized:
            with finished(found[0], None) as (store, step):
                first = own(jax.tree.map(np.asarray, store.read_params(step)))
        return of_run(params, section, first, card["step"])

    return Trained(params, "stage generator of stedm_jax", card, loads, whole={FILE: file})


def _section(settings: Settings, cell: str) -> Any:
    """The settings of what a cell trains: of an arm, those with its network and its changes."""
    match without_point(cell).split("/"):
        case "generator", name:
            return settings.generator(name)
        case "segmentation", arm, _:
            return settings.arm(arm)
        case ["judge"]:
            return settings.arm(JUDGE)
        case ["autoencoder" | "ssl" | "guided" as stage]:
            return getattr(settings, stage)
    raise UserError(f"{cell} is no stage that trains; name another folder of the run.")


def _named(stage: str, params: dict[str, Any], section: Any, card: Mapping[str, Any]) -> Trained:
    """The parameters of a stage with the published names, where they have any."""
    network, parts = f"stage {stage} of stedm_jax", {"model": params}
    table: Table = ()
    loads, files, diffusers = "", None, None
    match stage:
        case "generator":
            parts, table = params, ldm_unet.STEDM_TABLE
            if "style_block" not in params["unet"]:
                table = ldm_unet.TABLE
            loads = "LDM's UNet, with STEDM's style block where there is one; our own for the rest"
        case "guided":
            table = ldm_unet.GUIDED_TABLE
            loads = (
                "Large-Image-Diffusion's denoiser and embedder (model.diffusion_model, "
                "cond_stage_model)"
            )
        case "autoencoder" if section.model.kind == TAEF2:
            parts, table, files = {"model": own(params)}, taef2.TABLE, taef2.files
            loads = "the encoder and the decoder of TAESD's package"
        case "autoencoder" if not section.learns:
            network = f"{network}, a basis that was not learned"
        case "autoencoder":
            parts, table = {"model": own(params)}, ldm_autoencoder.TABLE
            loads = "LDM's autoencoders, without loss and discriminator"
            diffusers = _diffusers(section.model)
        case "ssl":
            parts = params
        case _ if "head" in params:  # whose denoiser has an export of its own
            parts, network = params, f"{network}, a head on features"
        case _:
            table, loads = _segmenter(section.model)
    tables = {"unet" if stage == "generator" else "model": table}
    return Trained(parts, network, card, loads, tables, files, diffusers=diffusers)


def _segmenter(model: SegmenterModel) -> tuple[Table, str]:
    """Table to the published names, and what they are the names of."""
    if model.kind == "fcn8s":
        if model.fcn8s != Fcn8s():
            return fcn8s.TABLE, "a network like torchvision's vgg16, of other widths"
        scores = "score_fr, score_pool4, score_pool3 in place of classifier.6"
        return fcn8s.TABLE, f"torchvision's vgg16, with {scores}"
    if model.kind == "dcan":
        return (), "a contour-aware network whose `features` are torchvision's vgg16"
    encoder = model.encoder
    if encoder == MIT:
        sizes = {key: getattr(model, key) for key in ("widths", "depths", "heads", "reductions")}
        encoder = next((name for name, size in SIZES.items() if size == sizes), "")
    table = convnext.TABLE if encoder.startswith("convnext") else ()
    name = f"'{'tu-' if table else ''}{encoder}'" if encoder else "a MiT of sizes that smp has not"
    change = "" if model.norm == "batch" else ", but with group norms, which smp does not have"
    return table, f"smp.Unet({name}, decoder_channels={model.decoder}){change}"


def _diffusers(model: AutoencoderModel) -> tuple[Table, dict[str, Any]] | None:
    """Names and config.json of diffusers; only for widths at which its group norms are ours."""
    widths = [model.channels * each for each in model.multipliers]
    if min(widths) < 128 or any(width % 32 for width in widths):
        return None
    quantized = model.kind == "vq"
    config = {
        "_class_name": "VQModel" if quantized else "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": model.res_blocks,
        "latent_channels": model.latent_channels,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "mid_block_add_attention": model.attention,
    }
    if quantized:
        config |= {"num_vq_embeddings": model.codes, "vq_embed_dim": model.latent_channels}
    return diffusers_autoencoder.table(len(widths)), config


def _card(workdir: Path, cell: str, settings: Settings, section: Any) -> dict[str, Any]:
    stage, _, variant = without_point(cell).partition("/")
    if stage == "segmentation":
        arms = read_if_there(workdir / "report" / "summary.json").get("arms", {})
        metrics = arms.get(variant.split("/")[0], {})
        metrics_of = "the arm: test patients, over all its seeds"
    else:
        metrics, metrics_of = (
            read_if_there(workdir / cell / "done.json").get("metrics", {}),
            "the stage",
        )
    return data_of_run(workdir, settings) | {
        "title": f"{settings.title or settings.name}: {cell}",
        "stage": stage,
        "metrics": {name: value for name, value in metrics.items() if isinstance(value, Number)},
        "metrics_of": metrics_of,
        "steps": section.train.steps,
        "init_from": list(section.init_from),
    }
