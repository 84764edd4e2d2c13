"""One compiled training step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from stedm_jax.errors import UserError
from stedm_jax.training.ema import update_ema
from stedm_jax.training.optim import LearningRate
from stedm_jax.training.rng import step_key
from stedm_jax.training.sharding import batch_sharding, replicated
from stedm_jax.training.state import TrainState
from stedm_jax.training.task import STATE, Task

WATCHED = ("loss", "grad_norm", "param_norm")  # not finite in one of these: the training has diverged


class TrainingDiverged(UserError):
    """The loss, the gradient or the parameters are no longer finite."""

    def __init__(self, step: int, metric: str, value: float, last_good: int | None, skipped: int = 0) -> None:
        kept = f"The checkpoint of step {last_good} is kept" if last_good is not None else "There is no checkpoint yet"
        before = f", after {skipped} step(s) that were left out for the like" if skipped else ""
        super().__init__(
            f"Training diverged: {metric} is {value} at step {step}{before}. {kept}. Try a lower optimizer.lr, a "
            f"longer optimizer.warmup or optimizer.clip of 1.0, look at the data of that step, and run again."
        )
        self.step, self.metric, self.last_good = step, metric, last_good


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    lr: LearningRate,
    mesh: Mesh,
    ema_decay: float,
    shardings: TrainState,
    skips: bool = False,
) -> Any:
    """Builds the jitted `(state, frozen, batch, key) -> (state, metrics)`; the state given is consumed.

    Metrics are float32 scalars: loss, grad_norm (over all parameters, before clipping), param_norm, lr and the task's.
    With `skips`, a step whose loss, gradient or result is not finite changes nothing but the count of steps; the metric
    `skipped` is 1 then.
    The task's key is fold_in(key, step). `key` is that of the seed: an argument, so that every seed shares one program.
    """

    def step(
        state: TrainState, frozen: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        now = step_key(key, state.step)
        loss_and_grad = jax.value_and_grad(task.loss, has_aux=True)
        (loss, extra), grads = loss_and_grad(state.params, frozen, batch, now, state.step)
        extra = dict(extra)
        kept = extra.pop(STATE, {})
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = _overlay(optax.apply_updates(state.params, updates), kept)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "lr": lr(state.step),
        }
        if clash := set(metrics) & set(extra):
            raise ValueError(f"task {task.name!r} names its metrics {sorted(clash)}, which the loop names itself")
        metrics = {name: value.astype(jnp.float32) for name, value in {**metrics, **extra}.items()}
        ema = update_ema(state.ema, params, ema_decay, state.step + 1)
        new = TrainState(state.step + 1, params, ema, opt_state)
        if skips:
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


def _overlay(params: Any, new: Any) -> Any:
    """The parameters with those of `new`, a nested dict of some of them, in their places."""
    if not isinstance(new, dict):
        return new.astype(params.dtype)
    if unknown := set(new) - set(params):
        raise ValueError(f"a task gave a state for {sorted(unknown)}, which its parameters do not have")
    return {**params, **{name: _overlay(params[name], value) for name, value in new.items()}}
