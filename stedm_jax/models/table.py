"""All networks at their published sizes: parameters and the cost of one image forward.

    python -m stedm_jax.models.table            all of them
    python -m stedm_jax.models.table UNet VQ    those with one of these words in their names

Nothing is allocated or compiled; a large network takes a few seconds to trace. "G products" are
matrix products and convolutions, as papers count them; "G all" has everything else too (norms,
softmax, sums), but no padding of convolutions. A network is one entry of NETWORKS.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stedm_jax.models.autoencoder import Autoencoder
from stedm_jax.models.dcan import Dcan
from stedm_jax.models.discriminator import Discriminator
from stedm_jax.models.fcn8s import Fcn8s
from stedm_jax.models.flops import forward_flops, product_flops
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.inception import Inception
from stedm_jax.models.lpips import LPIPS
from stedm_jax.models.segmenter import Segmenter
from stedm_jax.models.svit import SViT
from stedm_jax.models.swin_v2 import SwinV2
from stedm_jax.models.taef2 import TAEF2
from stedm_jax.models.unet import UNet
from stedm_jax.models.vit import ViT
from stedm_jax.models.vit_sizes import vit_size


@dataclass(frozen=True)
class Network:
    """One row of the table.

    Attributes:
      name: with the size of the input. build: makes the module.
      inputs: of the method, each a shape (float32) or a `jax.ShapeDtypeStruct`.
      source: publication. method: what is called.
      parts: top-level names of the parameters that count; none: all.
      published: GFLOPs that the notes on the papers give, 0 where unknown.
    """

    name: str
    build: Callable[[nnx.Rngs], nnx.Module]
    inputs: Sequence[Any]
    source: str
    method: str = "__call__"
    parts: Sequence[str] = ()
    published: int = 0


def image(side: int, channels: int = 3) -> tuple[int, ...]:
    """Shape of one square image."""
    return (1, side, side, channels)


def _stedm(rngs: nnx.Rngs) -> UNet:
    return UNet(
        in_channels=6, out_channels=3, base=128, multipliers=(1, 4, 8), style_dim=512, rngs=rngs
    )


def _lid(rngs: nnx.Rngs) -> UNet:
    kw = {"attention_at": (2, 4, 8), "heads": 1, "attention": "transformer", "context_dim": 512}
    return UNet(in_channels=3, out_channels=3, base=192, multipliers=(1, 2, 3, 5), **kw, rngs=rngs)


def _ldm(
    kind: str, channels: int, multipliers: tuple[int, ...]
) -> Callable[[nnx.Rngs], Autoencoder]:
    kw = {"kind": kind, "latent_channels": channels, "multipliers": multipliers}
    return lambda rngs: Autoencoder(channels=128, **kw, rngs=rngs)


def _vit(name: str) -> Callable[[nnx.Rngs], ViT]:
    return lambda rngs: ViT(vit_size(name), rngs=rngs)


def _unet(encoder: str) -> Callable[[nnx.Rngs], Segmenter]:
    return lambda rngs: Segmenter(classes=2, encoder=encoder, norm="batch", rngs=rngs)


_ENCODER, _DECODER = ("encoder", "quant_conv"), ("decoder", "post_quant_conv")
_TIME, _STYLE, _VQ = (1,), (1, 512), _ldm("vq", 3, (1, 2, 4))
_PRESENT = jax.ShapeDtypeStruct((1, 10), jnp.bool)

NETWORKS: tuple[Network, ...] = (
    Network(
        "STEDM UNet, latent 128",
        _stedm,
        (image(128, 6), _TIME, _STYLE),
        "Oettl 2024",
        published=872,
    ),
    Network("LID UNet, latent 64", _lid, (image(64), _TIME), "Graikos 2024", published=208),
    Network("VQ-f4 encoder, 512 px", _VQ, (image(512),), "Rombach 2022", "encode", _ENCODER, 1793),
    Network("VQ-f4 decoder, 512 px", _VQ, (image(128),), "Rombach 2022", "decode", _DECODER, 3095),
    Network("VQ-f4 encoder, 256 px", _VQ, (image(256),), "Rombach 2022", "encode", _ENCODER, 345),
    Network("VQ-f4 decoder, 256 px", _VQ, (image(64),), "Rombach 2022", "decode", _DECODER, 671),
    Network("KL-f4, 256 px", _ldm("kl", 3, (1, 2, 4)), (image(256),), "Rombach 2022"),
    Network("KL-f8, 256 px", _ldm("kl", 4, (1, 2, 4, 4)), (image(256),), "Rombach 2022"),
    Network("TAEF2, 512 px", lambda rngs: TAEF2(rngs=rngs), (image(512),), "TAESD"),
    Network(
        "Swin-V2-T, 512 px",
        lambda rngs: SwinV2(classes=1000, rngs=rngs),
        (image(512),),
        "Liu 2022",
        published=47,
    ),
    Network(
        "sViT, 10 images of 512 px",
        lambda rngs: SViT(out=512, count=10, rngs=rngs),
        ((1, 10, 512, 512, 3), _PRESENT),
        "Oettl 2024",
    ),
    Network("ViT-S/16 of HIPT, 256 px", _vit("hipt_vit256"), (image(256),), "Chen 2022"),
    Network("UNI2-h, 224 px", _vit("uni2_h"), (image(224),), "Chen 2024"),
    Network("Virchow2, 224 px", _vit("virchow2"), (image(224),), "Zimmermann 2024"),
    Network("H0-mini, 224 px", _vit("h0_mini"), (image(224),), "Filiot 2025"),
    Network("MiT-B2 UNet, 512 px", _unet("mit_b2"), (image(512),), "Xie 2021, smp", published=63),
    Network("ResNet-18 UNet, 512 px", _unet("resnet18"), (image(512),), "He 2016, smp"),
    Network("ConvNeXt-T UNet, 512 px", _unet("convnext_tiny"), (image(512),), "Liu 2022, smp"),
    Network(
        "VGG16-FCN8s, 512 px", lambda rngs: Fcn8s(classes=2, rngs=rngs), (image(512),), "Long 2015"
    ),
    Network("DCAN, 480 px", lambda rngs: Dcan(rngs=rngs), (image(480),), "Chen 2016"),
    Network("PatchGAN, 256 px", lambda rngs: Discriminator(rngs=rngs), (image(256),), "Isola 2017"),
    Network(
        "Inception-v3 (FID), 299 px",
        lambda rngs: Inception(rngs=rngs),
        (image(299),),
        "Szegedy 2016",
    ),
    Network(
        "LPIPS (AlexNet), a pair of 256 px",
        lambda rngs: LPIPS(rngs=rngs),
        (image(256),) * 2,
        "Zhang 2018",
    ),
)


def measure(network: Network) -> tuple[int, float, float]:
    """(parameters without running statistics, GFLOPs of products, GFLOPs of everything) of one
    entry."""
    functional = Functional(network.build)
    args = [
        x if hasattr(x, "dtype") else jax.ShapeDtypeStruct(x, jnp.float32) for x in network.inputs
    ]
    params = functional.abstract
    counted = {name: params[name] for name in network.parts} if network.parts else params
    learnt = [
        x
        for path, x in jax.tree_util.tree_leaves_with_path(counted)
        if "running_" not in str(path[-1])
    ]

    def call(params: Any, *args: Any) -> Any:
        return functional.apply(params, *args, method=network.method)

    return (
        param_count(learnt),
        product_flops(call, params, *args) / 1e9,
        forward_flops(call, params, *args) / 1e9,
    )


def rows(words: Sequence[str] = ()) -> Iterator[str]:
    """The lines of the table in Markdown, one after the other as they are counted."""
    yield "| network | parameters | G products | G all | the papers say | source |"
    yield "|---|---:|---:|---:|---:|---|"
    for network in NETWORKS:
        if words and not any(word.lower() in network.name.lower() for word in words):
            continue
        parameters, products, total = measure(network)
        known = f"{network.published:,}" if network.published else ""
        yield f"| {network.name} | {parameters:,} | {products:,.1f} | {total:,.1f} | {known} | {network.source} |"


if __name__ == "__main__":
    for row in rows(sys.argv[1:]):
        print(row, flush=True)
