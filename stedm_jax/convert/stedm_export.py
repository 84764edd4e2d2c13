"""A denoiser as a checkpoint of the code released with STEDM has it: every tensor, under every
name.

Values that the network was trained with and its averages are not told apart: both get those that
are at hand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from stedm_jax.convert.export_weights import Trained
from stedm_jax.convert.stedm_checkpoint import AUTOENCODER, GENERATOR, OTHER
from stedm_jax.convert.stedm_names import (
    AVERAGES,
    FIRST,
    LAYOUT,
    UNET,
    StyleNames,
    average,
    plain,
    published,
)
from stedm_jax.convert.tables import ldm_autoencoder
from stedm_jax.convert.tables.ldm_unet import STEDM_TABLE
from stedm_jax.convert.torch_names import LAYOUTS, to_torch
from stedm_jax.diffusion.schedule import make_schedule
from stedm_jax.models.swin_v2 import relative_index, relative_table
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.training.weights_folder import load_folder

FILE = "stedm"
"""Name of the exported file, without ending."""
WINDOWS = {"swin_v2_t": 8, "swin_v2": 4}
"""Style encoder with the names of torchvision -> side of its windows."""
_IMAGES = ("svit",)
"""Aggregations without an encoder, under published names."""

Tensors = dict[str, np.ndarray]


def exportable(params: Mapping[str, Any], config: Diffusion) -> bool:
    """Whether a trained denoiser has a counterpart in the released code."""
    style = config.style
    known = style.encoder in WINDOWS and style.aggregation in ("mean", "max", "linear")
    known = known or style.aggregation in _IMAGES or not style.used
    return known and "style_block" in params["unet"] and "style_embed" not in params["unet"]


def state(
    params: Mapping[str, Any], names: StyleNames, first: Any, others: Mapping[str, np.ndarray]
) -> Tensors:
    """All tensors under their plain names.

    Args:
      params: of a denoiser.
      names: of its style.
      first: parameters of a VQ autoencoder; None: they are left out.
      others: under plain names.
    """
    unet = {f"{UNET}{name}": each for name, each in to_torch(params["unet"], STEDM_TABLE).items()}
    out = unet | {average(name): each for name, each in unet.items()}
    out[LAYOUT] = np.asarray(LAYOUTS["conv1x1"][1](params["layout"]["kernel"]), order="C")
    style = to_torch(params.get("style", {}))
    out |= {names.theirs(name): each for name, each in style.items()}
    if first is not None:
        stage = to_torch(first, ldm_autoencoder.TABLE)
        out |= {f"{FIRST}{name}": each for name, each in stage.items()}
    return out | dict(others)


def of_run(params: Mapping[str, Any], config: Diffusion, first: Any, step: int) -> Tensors:
    """The file for a denoiser that was trained here for so many steps; `first` as for `state`."""
    names = StyleNames.of(config.style.aggregation if config.style.used else "none")
    others = schedule_tables(config)
    others[f"{AVERAGES}decay"] = np.array(config.train.ema.decay, np.float32)
    others[f"{AVERAGES}num_updates"] = np.array(step, np.int32)
    if names.encoder:
        others |= _encoder_tables(params["style"]["encoder"], names, WINDOWS[config.style.encoder])
    everything = state(params, names, first, others)
    return {name: each for short, each in everything.items() for name in published(short)}


def read_checkpoint(folder: Path, card: Mapping[str, Any], names: Sequence[str]) -> Trained:
    """What `convert stedm` wrote, to be exported under the names that its file had.

    Args:
      folder: with the parts.
      card: for model_card.py.
      names: all of the file.
    """
    generator, _ = load_folder(folder / GENERATOR)

    def file() -> Tensors:
        first, _ = load_folder(folder / AUTOENCODER)
        style = StyleNames.found(map(plain, names))
        everything = state(generator, style, first, load_file(folder / OTHER))

        def usual(name: str) -> str:
            """A plain name without what it may be wrapped in, which `ours` takes off."""
            return style.theirs(ours) if (ours := style.ours(name)) else name

        return {name: everything[usual(plain(name))] for name in names}

    loads = "the checkpoint as published"
    return Trained(generator, "STEDM's denoiser", card, loads, whole={FILE: file})


def schedule_tables(config: Diffusion) -> Tensors:
    """What the released code keeps of the noise schedule, float32 (Ho et al. 2020, equations 4, 6
    and 7)."""
    kept = make_schedule(**vars(config.schedule)).alpha_bar
    before = np.append(1.0, kept[:-1])
    beta, gone = 1 - kept / before, 1 - kept
    variance = beta * (1 - before) / gone
    tables = {
        "betas": beta,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(kept),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(gone),
        "log_one_minus_alphas_cumprod": np.log(gone),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / kept),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / kept - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": beta * np.sqrt(before) / gone,
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - beta) / gone,
    }
    return {name: each.astype(np.float32) for name, each in tables.items()}


def _encoder_tables(encoder: dict[str, Any], names: StyleNames, window: int) -> Tensors:
    """The tables of offsets that torchvision keeps in each block of a Swin-V2."""
    side = 2 * window - 1
    both = {
        "relative_position_index": relative_index(window).ravel().astype(np.int64),
        "relative_coords_table": relative_table(window).reshape(1, side, side, 2),
    }
    scale = "logit_scale"
    blocks = [name.removesuffix(scale) for name in to_torch(encoder) if name.endswith(scale)]
    begins = [f"{names.encoder}{block}" for block in blocks]
    return {f"{begin}{name}": each for begin in begins for name, each in both.items()}
