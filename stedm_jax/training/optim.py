"""Optimizers and learning-rate schedules.

    (1)  constant:  lr(n) = lr * w(n)                      w(n) = min(1, (n + 1) / warmup)
    (2)  cosine:    lr(n) = lr * w(n) * (1 + cos(pi * t)) / 2,
                    t = (n - warmup) / (steps - warmup) in [0, 1]
    (3)  decay(n) = end + (weight_decay - end) * (1 + cos(pi * n / steps)) / 2
                    where weight_decay_end > 0

n = 0, 1, ... is the number of updates already made, so that the first one already moves.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from stedm_jax.settings.training import Optimizer

LearningRate = Callable[[Any], Float[Array, ""]]
Groups = Callable[[Any], Any]


def make_optimizer(
    settings: Optimizer, steps: int, groups: Groups | None = None
) -> tuple[optax.GradientTransformation, LearningRate]:
    """Builds the optimizer and the schedule of its learning rate (equations 1, 2).

    Args:
      settings: of the optimizer. Weight decay spares leaves of fewer than two dimensions (biases,
        norms).
      steps: length of the whole training, for the cosine schedule.
      groups: gives, for a tree of parameters, a tree (or a prefix of it) of labels. Each label is
        optimized as if by an optimizer of its own: the gradient is clipped by the norm over its
        leaves, and all else acts on each element by itself. None: one group. They have nothing to
        do with `settings.groups`, the factors of learning rates.
    """
    lr = make_schedule(settings, steps)
    parts = [clip_by_group_norm(settings.clip, groups)] if settings.clip > 0 else []
    parts.append(optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=1e-8))
    if settings.weight_decay > 0:
        parts.append(optax.add_decayed_weights(_decay(settings, steps), mask=decays))
    parts.append(optax.scale_by_learning_rate(lr))
    if settings.groups:
        parts.append(scale_by_path(settings.groups))
    return _lenient(optax.chain(*parts)), lr


def clip_by_group_norm(limit: float, groups: Groups | None = None) -> optax.GradientTransformation:
    """Bounds the norm of the gradient of each group (see `make_optimizer`) by itself; the rest is
    not touched."""
    if groups is None:
        return optax.clip_by_global_norm(limit)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        labels = groups(updates)
        clips = dict.fromkeys(jax.tree.leaves(labels), optax.clip_by_global_norm(limit))
        apart = optax.partition(clips, labels)
        return apart.update(updates, apart.init(updates))[0], state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_path(groups: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Multiplies updates by the factor of the first of the (regular expression, factor) pairs that
    fits their path."""

    def scaled(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        factors = (factor for pattern, factor in groups if re.fullmatch(pattern, name))
        return leaf * next(factors, 1.0)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decays(params: Any) -> Any:
    """True for the leaves that weight decay acts on: matrices and kernels, not biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def make_schedule(settings: Optimizer, steps: int) -> LearningRate:
    """The learning rate as a function of the updates made; equations (1) and (2)."""
    lr, warmup = settings.lr, settings.warmup

    def schedule(count: Any) -> Float[Array, ""]:
        n = jnp.asarray(count, jnp.float32)
        rate = lr * jnp.minimum(1.0, (n + 1.0) / max(warmup, 1))
        if settings.schedule == "cosine":
            t = jnp.clip((n - warmup) / max(steps - warmup, 1), 0.0, 1.0)
            rate = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * t))
        return rate

    return schedule


def _decay(settings: Optimizer, steps: int) -> Any:
    """The weight decay: a number, or equation (3)."""
    start, end = settings.weight_decay, settings.weight_decay_end
    if end == 0:
        return start
    return lambda n: (
        end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(n / max(steps, 1), 1.0)))
    )


def _lenient(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax mixes int32 counts with float decays, and strict dtype promotion refuses that."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)
