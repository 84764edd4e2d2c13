"""What features and head cost an image, beside the ResNet18-UNet: FLOPs, seconds and memory.

    python tests/tasks/bench_features.py --config=configs/glas.py:pathsegdiff [--batch=8]
    [--flops_only]

Rows: the head on the denoiser's features as configured; with all blocks run though only those are
used (no early stop); with stored latents and embeddings (guided.cache); the guide alone; the
ResNet18-UNet. Parameters are not trained, which changes no cost. Memory is what XLA reserves for
arguments, temporaries and outputs of the compiled prediction.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.models.flops import forward_flops
from stedm_jax.models.unet import tap_channels
from stedm_jax.settings.arm import Arm
from stedm_jax.settings.load import load_config, read_settings
from stedm_jax.settings.root import Settings
from stedm_jax.tasks.build import Shown, build_autoencoder, build_guided, build_segmenter
from stedm_jax.tasks.features import Features
from stedm_jax.tasks.pixel_head import DENOISER, HEAD


def rows(settings: Settings, batch: int):
    """(name, function of (params, frozen, batch), abstract params, frozen and batch)."""
    first = build_autoencoder(settings, jnp.float32)
    denoiser = build_guided(settings, first, jnp.float32)
    assert denoiser.guide is not None, "there is no guide to compare with"
    frozen = denoiser.abstract_frozen | {DENOISER: denoiser.network.abstract}
    side, networks = settings.data.tile, ("ldm", "vit", "resnet18-unet")
    image = {"image": jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)}
    arms = {name: Arm(real=1.0, stain_jitter=0.0, network=name) for name in networks}
    settings = replace(settings, segmentation=replace(settings.segmentation, arms=arms))
    ldm, vit, resnet = (
        build_segmenter(settings, name, Shown(side=side), 1, jnp.float32, denoiser)
        for name in networks
    )
    shapes = jax.eval_shape(
        lambda f, b: first.moments(f["first"], b["image"].astype(jnp.float32)), frozen, image
    )
    stored = {"moments": shapes, "mask": jax.ShapeDtypeStruct((batch, side, side), jnp.uint8)}
    stored |= {
        f"embedding_{name}": jax.ShapeDtypeStruct((batch, width), jnp.float32)
        for name, width in denoiser.widths.items()
    }
    params = {HEAD: ldm.network.abstract}
    yield "denoiser's features + head", ldm.predict, params, frozen, image
    unet, blocks = settings.guided.unet, settings.segmentation.features.blocks
    last = list(tap_channels(unet.base, unet.multipliers, unet.res_blocks))[-1]
    every = Features(ldm.config.features, denoiser)
    every.taps = (*blocks, last) if last not in blocks else blocks

    def whole(params: Any, frozen: Any, batch: Any) -> Any:
        maps = every(frozen[DENOISER], frozen, batch)
        kept = [m for tap, m in zip(every.taps, maps, strict=True) if tap in blocks]
        logits = ldm.network.apply(params[HEAD], kept, (side, side))
        return jnp.argmax(logits, -1), jnp.sum(maps[-1])  # the last block has to be computed

    yield "the same, no early stop", whole, params, frozen, image
    yield "the same, stored inputs", ldm.predict, params, frozen, stored
    yield "first stage alone", lambda p, f, b: denoiser.latents_of(f, b, None), {}, frozen, image
    yield "guide's tokens + head", vit.predict, {HEAD: vit.network.abstract}, frozen, image
    yield "ResNet18-UNet", resnet.predict, resnet.network.abstract, {}, image


def measure(call: Any, shapes: Any) -> tuple[float, float]:
    """Seconds a call, the least of five, and MB."""
    rng = np.random.default_rng(0)

    def fill(leaf: Any) -> jax.Array:
        if leaf.dtype == jnp.uint8:
            return jnp.asarray(rng.integers(0, 2, leaf.shape, dtype=np.uint8))
        return jnp.asarray(0.05 * rng.normal(size=leaf.shape), leaf.dtype)

    arguments = jax.tree.map(fill, shapes)
    compiled = jax.jit(call).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    times = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return min(times[1:]), total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/glas.py:pathsegdiff")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--flops_only", action="store_true")
    options = parser.parse_args()
    config, _, _ = load_config(options.config)
    print(f"{'an image':<28}{'GFLOP':>10}{'s':>10}{'MB, batch ' + str(options.batch):>16}")
    for name, call, *shapes in rows(read_settings(config), options.batch):
        flops = forward_flops(call, *shapes) / options.batch / 1e9
        line = f"{name:<28}{flops:>10.3f}"
        if not options.flops_only:
            seconds, memory = measure(call, shapes)
            line += f"{seconds / options.batch:>10.4f}{memory:>16.0f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
