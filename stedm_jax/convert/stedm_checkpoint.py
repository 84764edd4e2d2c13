"""A whole checkpoint of the code released with STEDM, to two folders that a run takes and back.

    DIR/generator            UNet, layout and style: for diffusion.init_from
    DIR/autoencoder          the first stage: for autoencoder.init_from
    DIR/other.safetensors    tables and counters that no network of ours has, as they were
    DIR/convert.json         where all that comes from, and every name in the file

Sizes are those of the configuration's defaults, which are the published ones; what depends on the
number and size of style tiles is read off the shapes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of, write_json
from stedm_jax.convert.published_averages import averaged
from stedm_jax.convert.registry import Entry
from stedm_jax.convert.stedm_names import (
    AVERAGES,
    FIRST,
    LAYOUT,
    STYLE_BLOCK,
    UNET,
    StyleNames,
    plain,
)
from stedm_jax.convert.tables import ldm_autoencoder
from stedm_jax.convert.tables.ldm_unet import STEDM_TABLE
from stedm_jax.convert.torch_names import LAYOUTS, from_torch, torch_name
from stedm_jax.convert.weight_files import Tensors, read_tensors
from stedm_jax.diffusion.schedule import make_schedule
from stedm_jax.models.published_sizes import build_published
from stedm_jax.models.style import build_style
from stedm_jax.models.unet import build_unet
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.training.param_paths import named
from stedm_jax.training.weights_folder import INFO, write_params, write_tensors

NAME = "stedm"
GENERATOR, AUTOENCODER, OTHER = "generator", "autoencoder", "other.safetensors"
DENOISER = Diffusion()
"""With the published sizes."""
FIRST_STAGE = "vq-f4"
_SIZES = (
    "Only networks of the published sizes are taken: a UNet of LDM with base 128 and multipliers "
    "(1, 4, 8), Swin-V2-T, a style vector of 512, and VQ-f4."
)
LATENT = 3
"""Channels of VQ-f4."""
_TABLES = (r"relative_(position_index|coords_table)$",)
"""Of Swin-V2, which are no parameters."""


def is_checkpoint(names: Iterable[str]) -> bool:
    """Whether a file with these tensors is one."""
    return any(plain(name) == STYLE_BLOCK for name in names)


def convert(
    entry: Entry, path: Path, folder: Path, *, key: str = "", weights: str = "auto"
) -> dict[str, Any]:
    """Writes the folders for a checkpoint into `folder`.

    Args:
      entry: of the registry.
      path: of the checkpoint.
      key, weights: as for `from_published.convert`.

    Returns:
      What convert.json says: as for other entries; `layout_classes`, how many classes a layout
      has; `style`, keys of config.diffusion.style that follow from the file; `usual_schedule`,
      whether its noise schedule is the default one; `names`, all tensors of the file.

    Raises:
      UserError: the file cannot be read or is another one, its copies of a tensor differ, or names
        and shapes are not those of the network.
    """
    everything = read_tensors(path, key=key)
    if not is_checkpoint(everything):
        raise UserError(
            f"{path} has no {STYLE_BLOCK}: it is no whole checkpoint of STEDM. Convert a UNet of "
            "LDM as ldm-landscape."
        )
    tensors, where = everything.merged(plain, str(path)), f"The weights in {path}"
    style_names = StyleNames.found(tensors)
    style = _style(tensors, style_names, where)
    about = {"licence": entry.license, "source": entry.source}
    about |= {"files": {file.name: sha256_of(file) for file in tensors.files}}

    generator, averages = _generator(tensors, style_names, style, weights, str(path))
    info = about | {"name": f"{NAME}, generator", "network": "STEDM's denoiser"}
    _write(folder / GENERATOR, generator, info | {"averages": averages})
    other = _other(tensors, style_names, generator.get("style", {}), where)
    write_tensors(folder / OTHER, other)
    count = _sizes(generator)
    del generator  # a gigabyte
    abstract = build_published(FIRST_STAGE).abstract
    table = ldm_autoencoder.TABLE
    first = from_torch(_below(tensors, FIRST), abstract, table, where=where, advice=_SIZES)
    info = about | {"name": f"{NAME}, autoencoder", "network": FIRST_STAGE}
    _write(folder / AUTOENCODER, first, info)
    loaded, parameters = (a + b for a, b in zip(count, _sizes(first), strict=True))
    info = {"name": NAME, "network": NAME, "what": entry.what, **about, "averages": averages}
    info |= {"loaded": loaded, "parameters": parameters, "not_loaded": []}
    info |= {"left_out": dict(sorted(Counter(tensors.left_out).items()))}
    info |= {"layout_classes": tensors[LAYOUT].shape[1], "style": style}
    info |= {"usual_schedule": _usual_schedule(other), "names": list(everything)}
    write_json(folder / INFO, info)
    return info


def advice(out: Path, info: Mapping[str, Any]) -> str:
    """What to do with the folder, for the user."""
    style = [f"{name}={value!r}" for name, value in info["style"].items()]
    keys = [f"config.diffusion.style: {', '.join(style)}"]
    if info["style"].get("aggregation") == "mean":
        keys = [f"{keys[0]}, or 'max', which has the same tensors: the file does not say which"]
    if info["averages"]:
        keys.append("the released code samples the last weights, not the averages taken here")
    if not info["usual_schedule"]:
        keys.append(
            "the noise schedule of the file is not the default: set config.diffusion.schedule"
        )
    keys.append(f"config.data.groups: {info['layout_classes']}, in the file's order")
    return (
        f"{'; '.join(keys)}\nnext: --config.diffusion.init_from={out / GENERATOR} "
        f"--config.autoencoder.init_from={out / AUTOENCODER}, both with train.steps=0; "
        "configs/catch.py:published does so for weights/stedm"
    )


def _usual_schedule(tables: Mapping[str, np.ndarray]) -> bool:
    """Whether the noise schedule of a file is that of the configuration's defaults."""
    kept, usual = tables.get("alphas_cumprod"), make_schedule(**vars(DENOISER.schedule)).alpha_bar
    return kept is None or (kept.shape == usual.shape and np.allclose(kept, usual, rtol=1e-3))


def _below(tensors: Tensors, begin: str) -> Tensors:
    """The tensors below a module, without its name."""
    return tensors.renamed("", (begin,), ())


def _sizes(params: dict[str, Any]) -> tuple[int, int]:
    """Arrays and scalars."""
    leaves = named(params).values()
    return len(leaves), sum(leaf.size for leaf in leaves)


def _write(folder: Path, params: dict[str, Any], info: Mapping[str, Any]) -> None:
    folder.mkdir()
    write_params(folder, params, info)


def _style(tensors: Tensors, names: StyleNames, where: str) -> dict[str, Any]:
    """Keys of config.diffusion.style, as far as the file says them."""
    if names.kind == "none":
        return {"source": "none", "keep_block": True}
    out: dict[str, Any] = {"aggregation": names.kind}
    try:
        dim = tensors[STYLE_BLOCK.replace("in_layers.0.", "emb_layers.1.")].shape[1]
        if names.kind == "linear":
            out["tiles"] = tensors[f"{names.aggregation}1.weight"].shape[1] // dim
        elif names.kind == "svit":
            begin = f"{names.aggregation}to_patch_embedding.to_patch_tokens."
            out["tiles"] = tensors[f"{begin}1.weight"].shape[0] // (3 * 8 * 8)
            tokens = tensors[f"{names.aggregation}pos_embedding"].shape[1]
            out["svit_side"] = 8 * isqrt(tokens - 2)
    except LookupError as error:
        raise UserError(f"{where} lack {error}, which this aggregation has.") from error
    return out


def _generator(
    tensors: Tensors, names: StyleNames, style: Mapping[str, Any], weights: str, where: str
) -> tuple[dict[str, Any], int]:
    """Parameters of a denoiser, and how many of them are averages."""
    what = f"The weights in {where}"
    if LAYOUT not in tensors:
        raise UserError(f"{what} have no {LAYOUT}, which embeds the layout.")
    abstract = build_unet(
        DENOISER.unet,
        in_channels=LATENT + tensors[LAYOUT].shape[0],
        out_channels=LATENT,
        style_dim=DENOISER.style.dim,
        dtype=jnp.float32,
    ).abstract
    table = STEDM_TABLE
    theirs = [torch_name(path, leaf.ndim, table)[0] for path, leaf in named(abstract).items()]
    prefix = f"{AVERAGES}{UNET[:-1]}"
    unet, averages = averaged(_below(tensors, UNET), tensors, theirs, prefix, weights, where)
    layout = LAYOUTS["conv1x1"][0](tensors[LAYOUT])
    out = {"unet": from_torch(unet, abstract, table, where=what, advice=_SIZES)}
    out["layout"] = {"kernel": np.array(layout, np.float32)}
    if names.kind != "none":
        extractor = build_style(replace(DENOISER.style, **style), jnp.float32)
        own = {ours: tensors[name] for name in tensors if (ours := names.ours(name))}
        shapes = extractor.abstract
        out["style"] = from_torch(own, shapes, ignore=_TABLES, where=what, advice=_SIZES)
    return out, averages


def _other(tensors: Tensors, names: StyleNames, style: Any, where: str) -> dict[str, np.ndarray]:
    """What belongs to no network of ours.

    Args:
      style: parameters of the style.

    Raises:
      UserError: some of it was learned.
    """
    ours = {torch_name(path, leaf.ndim, ())[0] for path, leaf in named(style).items()}
    taken = (UNET, FIRST, f"{AVERAGES}{UNET[:-1]}", LAYOUT)
    rest = [n for n in tensors if not n.startswith(taken) and names.ours(n) not in ours]
    strange = [name for name in rest if name.endswith(("weight", "bias"))]
    strange = [name for name in strange if not (names.encoder and name.startswith(names.encoder))]
    if strange:
        raise UserError(f"{where} hold what this network does not have: {', '.join(strange)}.")
    return {name: tensors[name] for name in rest}
