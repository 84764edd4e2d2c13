"""Stage guided: learns the denoiser that is guided by embeddings of the tiles, without their
labels."""

from typing import Any

import jax

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.stages import autoencoder, guide, guided_cache, latents
from stedm_jax.stages.frozen import Weights, pin
from stedm_jax.stages.learn import first_tiles, learn, restore_with_provenance
from stedm_jax.stages.run import Run
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.training.program import Program
from stedm_jax.training.rng import stream_key

REGION = "region"


def build(run: Run) -> tuple[GuidedTask, Any, dict[str, Weights]]:
    """The task of this stage, its frozen parameters (of the autoencoder and, where there is one, of
    the guide), and which those are, for `frozen.pin`."""
    first, params, origin = autoencoder.trained(run)
    encoder = guide.build(run.config, run.dtype)
    network, width = (encoder.network, encoder.size.embedding_dim) if encoder else (None, 0)
    task = GuidedTask(run.config.guided, first, latents.scale(run), network, width, run.dtype)
    frozen, used = {"first": params}, {"first": origin}
    if encoder:
        frozen["guide"], used["guide"] = guide.load(run, encoder)
    return task, frozen, used


def sees_around(config: Any) -> bool:
    """Whether the guide of config.guided reads the field around a tile, so that batches need it."""
    guiding = config.guided.guide
    return guiding.source != guide.NONE and REGION in guiding.tokens and not guiding.region_width


def trained(run: Run, weights: str = "trained") -> tuple[GuidedTask, Any, dict[str, Weights]]:
    """The task, its frozen parameters with its own as "denoiser", and which all of them are.

    Args:
      weights: "trained", or "random": those of a denoiser that has learnt nothing, drawn from the
        run's seed.

    Raises:
      UserError: the stage has not finished, or the denoiser learnt with another first stage or
        guide.
    """
    task, frozen, used = build(run)
    if weights == "random":
        frozen["denoiser"] = jax.jit(task.init)(stream_key(run.config.seed, "init"))
        return task, frozen, used
    run.need("guided")
    pin(run.workdir.stage("guided"), used)
    frozen["denoiser"], origin = restore_with_provenance(run, task, "guided")
    source = f"{run.workdir.path / 'guided'}, step {origin['checkpoint_step']}"
    return task, frozen, used | {"denoiser": Weights(source, origin["checkpoint_sha256"])}


def run(run: Run) -> None:
    """Trains; with eval_every, the loss on validation patients is logged too."""
    run.need("autoencoder", "latents")
    config = run.config.guided
    task, frozen, used = build(run)
    program = Program(task, config.train, run.mesh)
    around = sees_around(run.config)
    sources = run.sources(dict(config.splits), around=around)
    with run.workdir.timed("guided") as result:
        result["frozen"] = pin(run.workdir.stage("guided"), used)
        store = guided_cache.stored(run, task, frozen, used)
        dataset = shown = tile_dataset(sources, seed=run.config.seed, jitter=config.stain_jitter)
        if store is not None:
            dataset = tile_dataset(
                guided_cache.from_store(run, sources, store), seed=run.config.seed
            )
        watched = None
        if config.train.eval_every:
            watched = run.eval_batches(
                run.reader, run.rows("val"), config.train.batch, stored=store, around=around
            )
        trained = learn(
            run,
            program,
            config,
            "guided",
            dataset=dataset,
            visual=first_tiles(shown),
            frozen=frozen,
            eval_batches=watched,
            labels=lambda: {"samples": (("tile", "sample"), ())},
        )
        result["metrics"] = trained.metrics
