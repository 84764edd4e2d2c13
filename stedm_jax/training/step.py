"""One compiled training step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.settings.training import Training
from stedm_jax.training.averages import update_ema, update_tracks
from stedm_jax.training.gradients import Gradients, gradients
from stedm_jax.training.optim import LearningRate
from stedm_jax.training.param_paths import merged, named, split
from stedm_jax.training.rng import step_key
from stedm_jax.training.sharding import batch_sharding, replicated
from stedm_jax.training.state import TrainState
from stedm_jax.training.task import STATE, Task

WATCHED = ("loss", "grad_norm", "param_norm")
"""Metrics of which one that is not finite means that the training has diverged."""


class TrainingDiverged(UserError):
    """The loss, the gradient or the parameters are no longer finite."""

    def __init__(
        self, step: int, metric: str, value: float, last_good: int | None, skipped: int = 0
    ) -> None:
        kept = "There is no checkpoint yet"
        if last_good is not None:
            kept = f"The checkpoint of step {last_good} is kept"
        before = f", after {skipped} step(s) that were left out for the same" if skipped else ""
        super().__init__(
            f"Training diverged: {metric} is {value} at step {step}{before}. {kept}. Try a lower "
            "optimizer.lr, a longer optimizer.warmup or optimizer.clip of 1.0, look at the data of "
            "that step, and run again."
        )
        self.step, self.metric, self.last_good = step, metric, last_good


def make_train_step(
    task: Task,
    settings: Training,
    tx: optax.GradientTransformation,
    lr: LearningRate,
    mesh: Mesh,
    shardings: TrainState,
) -> Any:
    """Builds the jitted `(state, frozen, batch, key) -> (state, metrics)`; the state given is
    consumed.

    Metrics are float32 scalars: loss, grad_norm (before clipping) and param_norm (both over all
    that is trained), lr and the task's. With `skip_bad`, a step whose loss, gradient or result is
    not finite changes nothing but the count of steps; the metric `skipped` is 1 then. With
    `accumulate` above 1 the batch is learned from in so many parts (gradients.py). The task's key
    is fold_in(key, step). `key` is that of the seed: an argument, so that every seed shares one
    program.
    """

    def step(
        state: TrainState, frozen: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        still = named(state.still)

        def loss(params: Any, kept: Any, part: dict[str, jax.Array], key: jax.Array) -> Any:
            whole = overlay(merged(params, state.still), kept)
            value, extra = task.loss(whole, frozen, part, key, state.step)
            if still and STATE in extra:  # what is not trained has no running statistics either
                extra = {**extra, STATE: split(extra[STATE], still)[0]}
            return value, extra

        now, count = step_key(key, state.step), settings.accumulate
        found = gradients(
            loss, state.params, state.all_params, batch, now, count, mesh, shardings.params
        )
        new, metrics = _update(settings, tx, lr, state, found)
        if clash := set(metrics) & set(found.scalars):
            raise ValueError(
                f"task {task.name!r} names its metrics {sorted(clash)}, as the loop names its own"
            )
        metrics |= found.scalars
        metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
        if settings.skip_bad:
            bad = ~jnp.isfinite(jnp.stack([metrics[name] for name in WATCHED])).all()
            metrics["skipped"] = bad.astype(jnp.float32)
            kept_back = jax.tree.map(lambda old, now: jnp.where(bad, old, now), state, new)
            new = dataclasses.replace(kept_back, step=new.step)
        return new, metrics

    return jax.jit(
        step,
        in_shardings=(shardings, None, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def _update(
    settings: Training,
    tx: optax.GradientTransformation,
    lr: LearningRate,
    state: TrainState,
    found: Gradients,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """What a step does with a gradient: optimizer and averages."""
    updates, opt_state = tx.update(found.grads, state.opt_state, state.params)
    params = overlay(optax.apply_updates(state.params, updates), found.kept)
    metrics = {
        "loss": found.loss,
        "grad_norm": optax.tree.norm(found.grads),
        "param_norm": optax.tree.norm(params),
        "lr": lr(state.step),
    }
    step = state.step + 1
    ema = update_ema(state.ema, params, settings.ema.decay, step)
    tracks = update_tracks(state.tracks, params, step)
    return TrainState(step, params, ema, opt_state, state.still, tracks), metrics


def overlay(params: Any, new: Any) -> Any:
    """The parameters with those of `new`, a nested dict of some of them, in their places."""
    if not isinstance(new, dict):
        return new.astype(params.dtype)
    if unknown := set(new) - set(params):
        raise ValueError(
            f"a task gave a state for {sorted(unknown)}, which its parameters do not have"
        )
    return {**params, **{name: overlay(params[name], value) for name, value in new.items()}}
