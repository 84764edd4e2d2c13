"""Networks from config sections: `build_unet(config.unet, ...)` and so on give a `Functional`.

A section is any object with the attributes that the function names; the numbers of the papers are
in the configs, not here.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from stedm_jax.common.errors import UserError
from stedm_jax.models.autoencoder import KINDS, Autoencoder
from stedm_jax.models.batch_norm import NORMS
from stedm_jax.models.dcan import Dcan
from stedm_jax.models.dino_head import DinoHead
from stedm_jax.models.fcn8s import Fcn8s
from stedm_jax.models.functional import Functional
from stedm_jax.models.pixel_head import LinearHead, PixelHead
from stedm_jax.models.segmenter import CUSTOM, Segmenter
from stedm_jax.models.segmenter import ENCODERS as SEGMENTER_ENCODERS
from stedm_jax.models.style import AGGREGATIONS, StyleExtractor, encoder_names, frozen_size
from stedm_jax.models.taef2 import TAEF2
from stedm_jax.models.unet import ATTENTIONS, STYLE_PATHS, UNet
from stedm_jax.models.vit import ViT
from stedm_jax.models.vit_sizes import PLAIN, VIT_SIZES, ViTSize

SEGMENTERS = ("unet", "fcn8s", "dcan")
PIXEL_HEADS = ("convolution", "linear")
MIT_SIZES = ("widths", "depths", "heads", "reductions")


def _one_of(section: str, key: str, value: str, valid: Iterable[str]) -> str:
    if value not in valid:
        raise UserError(
            f"The config has {section}.{key} = {value!r}, which is not known. Set it to one of: {', '.join(valid)}."
        )
    return value


def _same_length(section: str, cfg: Any, keys: Iterable[str]) -> None:
    lengths = {key: len(getattr(cfg, key)) for key in keys}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise UserError(
            f"The config's {section} describes its stages with lists of different lengths: {told}. "
            "Give each of them one entry a stage."
        )


def build_unet(
    cfg: Any, *, in_channels: int, out_channels: int, style_dim: int, dtype: DTypeLike = jnp.float32
) -> Functional:
    """Keys: base, multipliers, res_blocks, attention_at, heads, attention, context_dim, style_path,
    dropout, remat."""
    path = _one_of("unet", "style_path", cfg.style_path, STYLE_PATHS)
    attention = _one_of("unet", "attention", cfg.attention, ATTENTIONS)
    if cfg.context_dim and (attention == "plain" or (path == "cross" and style_dim)):
        raise UserError(
            f"The config has unet.context_dim = {cfg.context_dim}, but this denoiser has no place for a context: plain "
            "attention reads none, and with unet.style_path = 'cross' the style images are the context. Set "
            "unet.context_dim = 0, or unet.attention = 'transformer' with another unet.style_path."
        )
    for multiplier in cfg.multipliers:
        if cfg.base * multiplier % cfg.heads:
            raise UserError(
                f"The config has unet.heads = {cfg.heads}, which does not divide the "
                f"{cfg.base * multiplier} channels of a level (unet.base = {cfg.base} times "
                f"{multiplier}). Change one of the two."
            )
    return Functional(
        lambda rngs: UNet(
            in_channels=in_channels,
            out_channels=out_channels,
            base=cfg.base,
            multipliers=tuple(cfg.multipliers),
            res_blocks=cfg.res_blocks,
            attention_at=tuple(cfg.attention_at),
            heads=cfg.heads,
            attention=attention,
            context_dim=cfg.context_dim,
            style_dim=style_dim,
            style_path=path,
            dropout=cfg.dropout,
            remat=cfg.remat,
            dtype=dtype,
            rngs=rngs,
        )
    )


def build_autoencoder(cfg: Any, *, dtype: DTypeLike = jnp.float32) -> Functional:
    """Keys: kind, channels, multipliers, res_blocks, latent_channels, codes, attention,
    legacy_codebook."""
    kind = _one_of("autoencoder", "kind", cfg.kind, (*KINDS, "taef2"))
    if kind == "taef2":
        shape = {"latent_channels": cfg.latent_channels, "channels": cfg.channels}
        return Functional(lambda rngs: TAEF2(**shape, dtype=dtype, rngs=rngs))
    return Functional(
        lambda rngs: Autoencoder(
            kind=kind,
            channels=cfg.channels,
            multipliers=tuple(cfg.multipliers),
            res_blocks=cfg.res_blocks,
            latent_channels=cfg.latent_channels,
            codes=cfg.codes,
            attention=cfg.attention,
            legacy_codebook=cfg.legacy_codebook,
            dtype=dtype,
            rngs=rngs,
        )
    )


def build_style(cfg: Any, *, dtype: DTypeLike = jnp.float32) -> Functional:
    """Keys: encoder, width (0: as published), aggregation, dim, tiles, remat."""
    encoder = _one_of("style", "encoder", cfg.encoder, encoder_names())
    aggregation = _one_of("style", "aggregation", cfg.aggregation, AGGREGATIONS)
    if frozen_size(encoder) and aggregation == "svit":
        raise UserError(
            f"The config has style.encoder = {encoder!r} and style.aggregation = 'svit', which reads the images "
            "itself; choose another aggregation."
        )
    return Functional(
        lambda rngs: StyleExtractor(
            encoder=encoder,
            width=cfg.width,
            aggregation=aggregation,
            dim=cfg.dim,
            tiles=cfg.tiles,
            dtype=dtype,
            remat=cfg.remat,
            rngs=rngs,
        )
    )


def build_style_guide(cfg: Any, *, dtype: DTypeLike = jnp.float32) -> Functional | None:
    """The pathology encoder that the style is read with, or None where the encoder is a trained
    one. Key: encoder."""
    size = frozen_size(_one_of("style", "encoder", cfg.encoder, encoder_names()))
    return None if size is None else Functional(lambda rngs: ViT(size, dtype=dtype, rngs=rngs))


def ssl_size(cfg: Any) -> ViTSize:
    """The Vision Transformer of config.ssl. Keys: model.kind, width, depth, heads, patch;
    crops.global_size, whose grid of patches is that of its table of positions."""
    if _one_of("ssl.model", "kind", cfg.model.kind, ("vit", *VIT_SIZES)) != "vit":
        return VIT_SIZES[cfg.model.kind]
    model, side = cfg.model, cfg.crops.global_size
    if model.width % model.heads or side % model.patch:
        raise UserError(
            f"The config has ssl.model.width = {model.width}, heads = {model.heads}, patch = {model.patch} and "
            f"ssl.crops.global_size = {side}; heads must divide the width, and the patch the size of a global crop."
        )
    shape = {"width": model.width, "depth": model.depth, "heads": model.heads, "patch": model.patch}
    return ViTSize(**shape, grid=side // model.patch, size=side, mean=PLAIN[0], std=PLAIN[1])


def build_ssl_encoder(cfg: Any, *, dtype: DTypeLike = jnp.float32) -> Functional:
    """The encoder that stage ssl trains, from config.ssl (keys of `ssl_size`); images in [-1, 1] to
    embeddings."""
    size = ssl_size(cfg)
    return Functional(lambda rngs: ViT(size, dtype=dtype, rngs=rngs))


def build_dino_head(cfg: Any, width: int, *, dtype: DTypeLike = jnp.float32) -> Functional:
    """Keys: hidden, bottleneck, prototypes; `width` is that of the embedding."""
    shape = {"hidden": cfg.hidden, "bottleneck": cfg.bottleneck, "prototypes": cfg.prototypes}
    return Functional(lambda rngs: DinoHead(width, **shape, dtype=dtype, rngs=rngs))


def build_head(
    cfg: Any, channels: Sequence[int], classes: int, dtype: DTypeLike = jnp.float32
) -> Functional:
    """Keys: kind (one of PIXEL_HEADS), norm, and width of "convolution"; `channels` are those of
    the maps it reads."""
    kw = {"classes": classes, "dtype": dtype}
    if _one_of("segmentation", "head.kind", cfg.kind, PIXEL_HEADS) == "linear":
        if cfg.norm != "batch":
            raise UserError(
                f"The config has segmentation.head.norm = {cfg.norm!r} with head.kind = 'linear': a head that norms "
                "each image by itself is not linear. Set head.norm to 'batch'."
            )
        return Functional(lambda rngs: LinearHead(channels, **kw, rngs=rngs))
    return Functional(
        lambda rngs: PixelHead(channels, width=cfg.width, norm=cfg.norm, **kw, rngs=rngs)
    )


def build_segmenter(cfg: Any, classes: int, *, dtype: DTypeLike = jnp.float32) -> Functional:
    """Keys: kind, imagenet_input; encoder, norm, drop_path, decoder of "unet"; widths, depths,
    heads, reductions of its encoder "mit"; fcn8s and dcan, each of its kind."""
    kind = _one_of("segmenter", "kind", cfg.kind, SEGMENTERS)
    shared = {"classes": classes, "imagenet_input": cfg.imagenet_input, "dtype": dtype}
    if kind in ("fcn8s", "dcan"):
        network, sizes = (Fcn8s, cfg.fcn8s) if kind == "fcn8s" else (Dcan, cfg.dcan)
        widths, hidden = tuple(sizes.widths), sizes.hidden
        if len(widths) != 5:
            raise UserError(
                f"The config's segmenter.{kind}.widths has {len(widths)} entries; VGG has five stages."
            )
        if min(*widths, hidden) < 1:
            raise UserError(
                f"The config's segmenter.{kind} has widths {widths} and hidden {hidden}; give 1 or more."
            )
        return Functional(lambda rngs: network(widths=widths, hidden=hidden, **shared, rngs=rngs))
    encoder = _one_of("segmenter", "encoder", cfg.encoder, SEGMENTER_ENCODERS)
    norm, sizes, blocks = _one_of("segmenter", "norm", cfg.norm, NORMS), {}, 5
    if encoder == CUSTOM:
        _same_length("segmenter", cfg, MIT_SIZES)
        sizes, blocks = {key: tuple(getattr(cfg, key)) for key in MIT_SIZES}, len(cfg.widths) + 1
    if len(cfg.decoder) != blocks:
        raise UserError(
            f"The config's segmenter.decoder has {len(cfg.decoder)} entries; with segmenter.encoder = {encoder!r} it "
            f"needs {blocks}, one for each doubling."
        )
    return Functional(
        lambda rngs: Segmenter(
            classes=classes,
            encoder=encoder,
            **sizes,
            decoder=tuple(cfg.decoder),
            norm=norm,
            drop_path=cfg.drop_path,
            imagenet_input=cfg.imagenet_input,
            dtype=dtype,
            rngs=rngs,
        )
    )
