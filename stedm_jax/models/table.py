"""All networks at their published sizes: parameters and the cost of one image forward.

    python -m stedm_jax.models.table            all of them
    python -m stedm_jax.models.table UNet VQ    those with one of these words in their names

Nothing is allocated or compiled; a large network takes a few seconds to trace. "G products" are
matrix products and convolutions, as papers count them; "G all" has everything else too (norms,
softmax, sums), but no padding of convolutions.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stedm_jax.models.flops import forward_flops, product_flops
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.published_sizes import build_published


class Row(NamedTuple):
    """One row of the table.

    Attributes:
      name: for the reader. network: one of published_sizes.PUBLISHED.
      inputs: shapes (float32, but a "present" is bool) of what the method is given.
      source: publication. gflops: those that the notes on the papers give, 0 where unknown.
      method: what is called. parts: top-level names of the parameters that count; none: all.
    """

    name: str
    network: str
    inputs: Sequence[tuple[int, ...]]
    source: str
    gflops: int = 0
    method: str = "__call__"
    parts: Sequence[str] = ()


def image(side: int, channels: int = 3) -> tuple[int, ...]:
    """Shape of one square image."""
    return (1, side, side, channels)


_ENCODE = ("encode", ("encoder", "quant_conv"))
_DECODE = ("decode", ("decoder", "post_quant_conv"))
# fmt: off
ROWS = (
    Row("STEDM UNet, latent 128", "stedm-unet", (image(128, 6), (1,), (1, 512)), "Oettl 2024", 872),
    Row("LID UNet, latent 64", "lid-unet", (image(64), (1,)), "Graikos 2024", 208),
    Row("VQ-f4 encoder, 512 px", "vq-f4", (image(512),), "Rombach 2022", 1793, *_ENCODE),
    Row("VQ-f4 decoder, 512 px", "vq-f4", (image(128),), "Rombach 2022", 3095, *_DECODE),
    Row("VQ-f4 encoder, 256 px", "vq-f4", (image(256),), "Rombach 2022", 345, *_ENCODE),
    Row("VQ-f4 decoder, 256 px", "vq-f4", (image(64),), "Rombach 2022", 671, *_DECODE),
    Row("KL-f4, 256 px", "kl-f4", (image(256),), "Rombach 2022"),
    Row("KL-f8, 256 px", "kl-f8", (image(256),), "Rombach 2022"),
    Row("TAEF2, 512 px", "taef2", (image(512),), "TAESD"),
    Row("Swin-V2-T, 512 px", "swin-v2-t", (image(512),), "Liu 2022", 47),
    Row("sViT, 10 images of 512 px", "svit", ((1, 10, 512, 512, 3), (1, 10)), "Oettl 2024"),
    Row("ViT-S/16 of HIPT, 256 px", "vit-hipt256", (image(256),), "Chen 2022"),
    Row("UNI2-h, 224 px", "vit-uni2-h", (image(224),), "Chen 2024"),
    Row("Virchow2, 224 px", "vit-virchow2", (image(224),), "Zimmermann 2024"),
    Row("H0-mini, 224 px", "vit-h0-mini", (image(224),), "Filiot 2025"),
    Row("MiT-B2 UNet, 512 px", "unet-mit-b2", (image(512),), "Xie 2021, smp", 63),
    Row("ResNet-18 UNet, 512 px", "unet-resnet18", (image(512),), "He 2016, smp"),
    Row("ConvNeXt-T UNet, 512 px", "unet-convnext-tiny", (image(512),), "Liu 2022, smp"),
    Row("VGG16-FCN8s, 512 px", "vgg16-fcn8s", (image(512),), "Long 2015"),
    Row("DCAN, 480 px", "dcan", (image(480),), "Chen 2016"),
    Row("PatchGAN, 256 px", "patchgan", (image(256),), "Isola 2017"),
    Row("Inception-v3 (FID), 299 px", "inception-fid", (image(299),), "Szegedy 2016"),
    Row("LPIPS (AlexNet), a pair of 256 px", "lpips-alex", (image(256),) * 2, "Zhang 2018"),
)
# fmt: on


def measure(network: Functional, row: Row) -> tuple[int, float, float]:
    """(parameters without running statistics, GFLOPs of products, GFLOPs of everything)."""
    params = network.abstract
    counted = {name: params[name] for name in row.parts} if row.parts else params
    leaves = jax.tree_util.tree_leaves_with_path(counted)
    learned = [leaf for path, leaf in leaves if "running_" not in str(path[-1])]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in row.inputs]
    if row.network == "svit":  # which of its images are there
        inputs[1] = jax.ShapeDtypeStruct(row.inputs[1], jnp.bool)

    def call(params: Any, *inputs: Any) -> Any:
        return network.apply(params, *inputs, method=row.method)

    products = product_flops(call, params, *inputs) / 1e9
    return param_count(learned), products, forward_flops(call, params, *inputs) / 1e9


def table(words: Sequence[str] = ()) -> Iterator[str]:
    """The lines of the table in Markdown, one after the other as they are counted."""
    yield "| network | parameters | G products | G all | the papers say | source |"
    yield "|---|---:|---:|---:|---:|---|"
    for row in ROWS:
        if words and not any(word.lower() in row.name.lower() for word in words):
            continue
        size, products, total = measure(build_published(row.network), row)
        known = f"{row.gflops:,}" if row.gflops else ""
        numbers = f"{size:,} | {products:,.1f} | {total:,.1f} | {known}"
        yield f"| {row.name} | {numbers} | {row.source} |"


if __name__ == "__main__":
    for line in table(sys.argv[1:]):
        print(line, flush=True)
