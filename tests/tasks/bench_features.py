"""What features and head cost an image, beside the ResNet18-UNet: FLOPs, seconds and memory.

    python tests/tasks/bench_features.py --config=configs/glas.py:pathsegdiff [--batch=8]
    [--flops_only]

Rows: the head on the denoiser's features as configured; with all blocks run though only those are
  used (no early stop);
with stored latents and embeddings (guided.cache); the guide alone; the ResNet18-UNet. Parameters
are not trained, which changes no cost. Memory is what XLA reserves for arguments, temporaries and
outputs of the compiled prediction.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from stedm_jax.stages.arms import settings
from stedm_jax.stages.plan import guided_task

from stedm_jax.models.flops import forward_flops
from stedm_jax.models.taps import tap_names
from stedm_jax.settings.load import load_config
from stedm_jax.stages import guide
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.contour import segmentation_task
from stedm_jax.tasks.features import Features
from stedm_jax.tasks.pixel_head import DENOISER, HEAD, PixelHeadTask

COLORS = ((0, 0, 0), (255, 255, 255))


def rows(config: Any, batch: int):
    """(name, function of (params, frozen, batch), abstract params, frozen and batch)."""
    first = AutoencoderTask(config.autoencoder, jnp.float32)
    denoiser, frozen = guided_task(config, first)
    encoder = guide.build(config, jnp.float32)
    assert encoder is not None, "there is no guide to compare with"
    frozen = frozen | {DENOISER: denoiser.network.abstract}
    side = config.data.tile
    image = {"image": jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)}
    blocks = tuple(config.segmentation.features.blocks)
    unet = config.guided.unet
    last = tap_names(len(unet.multipliers), unet.res_blocks)[-1]

    def head(network: str, **changes: Any) -> PixelHeadTask:
        arm = {"network": network, "changes": tuple(changes.items())}
        mine = settings(config.segmentation, network, arm)
        return PixelHeadTask(
            mine,
            COLORS,
            (1,),
            1,
            jnp.float32,
            Features(mine.features, denoiser, side, encoder.size.width),
        )

    ldm, vit = head("ldm"), head("vit")
    shapes = jax.eval_shape(
        lambda f, b: first.moments(f["first"], b["image"].astype(jnp.float32)), frozen, image
    )
    stored = {"moments": shapes, "mask": jax.ShapeDtypeStruct((batch, side, side), jnp.uint8)}
    stored |= {
        f"embedding_{name}": jax.ShapeDtypeStruct((batch, w), jnp.float32)
        for name, w in denoiser.widths.items()
    }
    params = {HEAD: ldm.network.abstract}
    yield "denoiser's features + head", ldm.predict, params, frozen, image
    every = Features(ldm.config.features, denoiser, side, encoder.size.width)
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
    section = settings(config.segmentation, "resnet18-unet", {"network": "resnet18-unet"})
    resnet = segmentation_task(section, COLORS, (1,), 1, jnp.float32)
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
    for name, call, *shapes in rows(config, options.batch):
        flops = forward_flops(call, *shapes) / options.batch / 1e9
        line = f"{name:<28}{flops:>10.3f}"
        if not options.flops_only:
            seconds, memory = measure(call, shapes)
            line += f"{seconds / options.batch:>10.4f}{memory:>16.0f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
