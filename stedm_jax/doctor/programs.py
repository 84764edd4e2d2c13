"""The compiled programs of a run as the stages make them, from shapes alone, and what they ask of a
chip: nothing is loaded and nothing computed.

A part of a run is "train" or "sampler", or names one of several generators or sets: "train/NAME",
"sampler/SET". Without a name it is the first; of sets, the first that a denoiser makes.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from stedm_jax.common.errors import UserError
from stedm_jax.common.flop_counts import traced_flops
from stedm_jax.doctor import answers
from stedm_jax.doctor.account import Account, Request
from stedm_jax.doctor.chips import topology_devices
from stedm_jax.doctor.collectives import traffic
from stedm_jax.doctor.hlo import Module
from stedm_jax.experiment import latent_cache
from stedm_jax.experiment.context import DTYPES, check_classes, known_tiles
from stedm_jax.experiment.sampler import make_sampler
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.root import Settings
from stedm_jax.tasks.build import build_autoencoder, build_generator
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import batch_sharding, check_batch, make_mesh, replicated
from stedm_jax.training.state import TrainState, with_shardings


def named(settings: Settings, part: str) -> tuple[str, str, int]:
    """What a part is (train or sampler), the generator or set that it names, and its global batch.

    Raises:
      UserError: there is no such generator or set, or one that no denoiser makes.
    """
    kind, _, name = part.partition("/")
    if kind == "train":
        name = name or next(iter(settings.diffusion.generators))
        return kind, name, settings.generator(name).train.batch
    sampled = [each for each, entry in settings.synthesis.sets.items() if entry.generator]
    name = name or next(iter(sampled), "")
    if name not in sampled:
        raise UserError(
            f"The part sampler{f'/{name}' if name else ''} is no set that a denoiser makes; those "
            f"in config.synthesis.sets are {', '.join(sampled) or 'none'}."
        )
    return kind, name, settings.synthesis_set(name).batch


def prepare(
    settings: Settings, workdir: Workdir, mesh: Mesh, part: str, images: int
) -> tuple[Callable[[], Any], dict[str, int]]:
    """The train step of stage generator, or the sampler of stage synthesis.

    Args:
      settings: of the experiment.
      workdir: where {workdir} of the configuration points; it need not be there.
      mesh: of real devices or of those of a topology.
      part: of the run.
      images: that one run of the program learns from or makes, over all chips.

    Returns:
      What traces the program, and what lies on every chip while it runs: name -> bytes of a chip.

    Raises:
      UserError: settings that do not go together, a batch that does not divide, classes that are
        not known yet.
    """
    kind, name, _ = named(settings, part)
    generator = name if kind == "train" else settings.synthesis.sets[name].generator
    dtype, classes = DTYPES[settings.dtype], check_classes(known_tiles(settings, workdir), settings)
    first = build_autoencoder(settings, dtype)
    task = build_generator(settings, generator, first, classes.colors, dtype)
    frozen = with_shardings(task.abstract_frozen, mesh)
    side, section, divided = settings.data.tile, settings.generator(generator), batch_sharding(mesh)

    def per_image(*shape: int, dtype: DTypeLike = jnp.uint8) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((images, *shape), dtype, sharding=divided)

    batch = {
        "mask": per_image(side, side),
        "styles": per_image(section.style.tiles, side, side, 3),
    }
    if kind == "sampler":
        batch["index"] = per_image(dtype=jnp.uint32)
        if settings.synthesis_set(name).reads_tile:
            batch["tile"] = per_image(side, side, 3)
        if settings.synthesis_set(name).inverts:
            batch["own"] = batch["styles"]
    elif settings.latents.cache:
        stored = latent_cache.plan(settings, first, {}, {}).arrays["moments"]
        batch["moments"] = per_image(*stored.shape, dtype=stored.dtype)
    else:
        batch["image"] = per_image(side, side, 3)
    held = {"frozen": frozen, "batch": batch}
    if kind == "sampler":
        check_batch(images, mesh)
        params = with_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)
        sampler = make_sampler(task, settings.synthesis_set(name), settings.seed, mesh)
        held, trace = {"parameters": params} | held, partial(sampler.trace, params, frozen, batch)
    else:
        program = Program(task, replace(section.train, batch=images), mesh)
        key = jax.eval_shape(lambda: jax.random.key(0)).update(sharding=replicated(mesh))
        held, trace = _state(program.state) | held, partial(program.trace, frozen, batch, key)
    return trace, {each: chip_bytes(tree) for each, tree in held.items()}


def _state(state: TrainState) -> dict[str, Any]:
    return {
        "parameters": state.all_params,
        "optimizer": state.opt_state,
        "moving averages": (state.ema, state.tracks),
    }


def chip_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree of ShapeDtypeStructs with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
        total += size * math.prod(leaf.sharding.shard_shape(leaf.shape))
    return total


def compiled_account(request: Request) -> Account:
    """Compiles a program, unless the answer of the compiler is kept, and says what was said."""
    settings, devices = request.settings, topology_devices(request.topology)
    mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, devices=devices)
    workdir = Workdir(Path(request.workdir))
    trace, held = prepare(settings, workdir, mesh, request.part, request.images)
    with jax.set_mesh(mesh):
        traced = trace()
        lowered = traced.lower()
    flops, program = traced_flops(traced.jaxpr) / mesh.size, lowered.as_text()
    file = answers.kept_file(request.cache, program, request.topology)
    kept = answers.recall(file) if request.cache else None
    if kept is None:
        size = f"{len(program) / 1e6:.1f} MB of program, {flops / 1e12:.1f} TFLOP a chip"
        slow = "a full-size step takes 25 minutes of a core"
        print(f"  traced: {size}; now the TPU compiler ({slow})", flush=True)
    facts, text = kept or answers.ask(lowered)
    if kept is None and request.cache:
        answers.keep(file, (facts, text))
    module = Module(text)
    return Account(
        part=request.part,
        topology=request.topology,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        images=request.images,
        held=held,
        traced=flops,
        kept=kept is not None,
        traffic=traffic(module),
        unknown_loops=sorted(set(module.unknown)),
        **facts,
    )
