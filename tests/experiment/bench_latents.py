"""What the cache of latents gains: python -m tests.stages.bench_latents [--config=configs/demo.py]
[--pairs=20].

Training steps of the configuration's denoiser on random data, from images and from stored moments
in turn on one device, so that whatever else the machine does falls on both; then the published
size, in FLOPs and bytes. Any key can be changed, as on the command line of stedm_jax.main: the
  published size on an accelerator is measured with
--config=configs/catch.py --config.diffusion.train.batch=8 (as many images as fit).
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from stedm_jax.stages.run import DTYPES

from configs.base import get_base
from stedm_jax.models.flops import forward_flops
from stedm_jax.settings.load import load_config, override
from stedm_jax.stages import latents
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh, to_global

COLORS = ((0, 0, 0), (255, 255, 255))


def task_of(config: Any) -> DiffusionTask:
    """The task of stage diffusion with two classes."""
    dtype, channels = DTYPES[config.dtype], config.autoencoder.model.latent_channels
    first = AutoencoderTask(config.autoencoder, dtype)
    return DiffusionTask(
        config.diffusion, first, LatentScale((0.0,) * channels, (1.0,) * channels), COLORS, dtype
    )


def steps(config: Any, pairs: int) -> None:
    """Prints seconds of a step with and without the cache, and their ratio."""
    task, mesh = task_of(config), make_mesh(devices=jax.devices()[:1])
    program, batch, side = (
        Program(task, config.diffusion.train, mesh),
        config.diffusion.train.batch,
        config.data.tile,
    )
    frozen = {"first": jax.jit(task.autoencoder.init)(jax.random.key(1))}
    rng, bag = np.random.default_rng(0), (batch, config.diffusion.style.tiles, side, side, 3)
    image = rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    both = {"mask": rng.integers(0, 2, (batch, side, side), dtype=np.uint8)}
    both["styles"] = rng.integers(0, 256, bag, dtype=np.uint8)
    spec = latents.plan(config, task.autoencoder, {}, {}).arrays["moments"]
    moments = rng.normal(size=(batch, *spec.shape)).astype(spec.dtype)
    key, states, compiled, batches = jax.random.key(0), {}, {}, {}
    for name, given in {"images": {"image": image}, "moments": {"moments": moments}}.items():
        batches[name] = to_global(both | given, mesh)
        states[name], compiled[name] = program.init(0), program.step(frozen, batches[name], key)[0]
    seconds: dict[str, list[float]] = {name: [] for name in states}
    for _ in range(pairs + 1):
        for name in states:
            began = time.perf_counter()
            states[name], metrics = compiled[name](states[name], frozen, batches[name], key)
            metrics["loss"].block_until_ready()
            seconds[name].append(time.perf_counter() - began)
    ratios = [
        one / two for one, two in zip(seconds["images"][1:], seconds["moments"][1:], strict=True)
    ]
    for name, each in seconds.items():
        print(
            f"step from {name:<8} median {statistics.median(each[1:]):.4f} s, fastest {min(each[1:]):.4f} s"
        )
    fastest = min(seconds["images"][1:]) / min(seconds["moments"][1:])
    print(
        f"speed-up          median of pairs {statistics.median(ratios):.2f}, of the fastest {fastest:.2f}"
    )


def costs(config: Any, what: str) -> None:
    """Prints the FLOPs of an image in a training step by part, and what a step without the encoder
    would gain."""
    task, side = task_of(config), config.data.tile
    shape = jax.ShapeDtypeStruct
    image, small = shape((1, side, side, 3), jnp.float32), side // task.factor
    encoder = forward_flops(task.autoencoder.moments, task.autoencoder.network.abstract, image)
    style = task.style.abstract
    bag = shape((1, config.diffusion.style.tiles, side, side, 3), jnp.float32)
    vector = jax.eval_shape(lambda p, s: task.style_vector({"style": p}, {}, s), style, bag)
    styling = forward_flops(lambda p, s: task.style_vector({"style": p}, {}, s), style, bag)
    stacked = shape(
        (1, small, small, task.channels + config.diffusion.layout_channels), jnp.float32
    )
    denoiser = forward_flops(
        task.unet.apply, task.unet.abstract, stacked, shape((1,), jnp.int32), vector
    )
    rest = 3 * (denoiser + styling)
    print(
        f"{what}: autoencoder {encoder / 1e9:,.3g} GFLOP an image, denoiser 3 x {denoiser / 1e9:,.3g}, style 3 x "
        f"{styling / 1e9:,.3g} ({config.diffusion.style.tiles} tiles): {encoder / (encoder + rest):.0%} of a step, "
        f"which is {1 + encoder / rest:.2f} times as long; without style tiles {1 + encoder / (3 * denoiser):.2f}"
    )
    spec = latents.plan(config, task.autoencoder, {}, {})
    views = spec.views["train"]
    print(
        f"{what}: {spec.record_bytes:,} bytes a view, {spec.record_bytes * views:,} a tile of {views} views"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--pairs", type=int, default=20)
    arguments, rest = parser.parse_known_args()
    config = load_config(arguments.config)[0]
    override(config, [word.removeprefix("--config.") for word in rest])
    if arguments.pairs:
        steps(config, arguments.pairs)
    costs(config, arguments.config)
    for tiles in (1, 10):
        published = get_base()
        published.diffusion.style.tiles = tiles
        costs(published, "published size")


if __name__ == "__main__":
    main()
