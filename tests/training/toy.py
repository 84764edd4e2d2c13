"""A small task and its data, with everything a real one has: noise by key, frozen weights, weighted
sums."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.settings.training import Ema, Optimizer, Training
from stedm_jax.training.loop import Loop, TrainResult
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh

FEATURES, HIDDEN, BATCH = 16, 256, 8


class ToyTask:
    """Regression by two layers; the first kernel is large enough to be cut along fsdp."""

    name = "toy"

    def init(self, key: jax.Array) -> dict[str, Any]:
        one, two = jax.random.split(key)
        return {
            "hidden": {
                "kernel": jax.random.normal(one, (FEATURES, HIDDEN)) / 4,
                "bias": jnp.zeros(HIDDEN),
            },
            "out": {"kernel": jax.random.normal(two, (HIDDEN, 1)) / 16, "bias": jnp.zeros(1)},
        }

    def errors(self, params: Any, frozen: Any, batch: dict[str, jax.Array]) -> jax.Array:
        scale = frozen["scale"] if frozen else jnp.ones(1)
        x = batch["x"] * scale[None, :]
        hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None, :])
        out = hidden @ params["out"]["kernel"] + params["out"]["bias"][None, :]
        return (out[:, 0] - batch["y"]) ** 2

    def loss(
        self, params: Any, frozen: Any, batch: dict[str, jax.Array], key: jax.Array, step: Any
    ) -> Any:
        noise = 0.1 * jax.random.normal(key, batch["x"].shape)
        errors = self.errors(params, frozen, {**batch, "x": batch["x"] + noise})
        return errors.mean(), {"largest": errors.max()}

    def eval_step(
        self, params: Any, frozen: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> Any:
        errors = self.errors(params, frozen, batch)
        count = (batch["weight"] > 0).sum(dtype=jnp.int32)
        return {"error": (errors * batch["weight"]).sum(), "count": count}

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        return {"error": float(sums["error"] / sums["count"])}

    def visualize(
        self, params: Any, frozen: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> Any:
        errors = self.errors(params, frozen, batch)
        picture = jnp.broadcast_to(
            jnp.clip(errors * 50, 0, 255)[:, None, None], (len(errors), 4, 3)
        )
        return {"errors": picture.astype(jnp.uint8), "largest_error": errors.max()}


def batch_at(step: int, size: int = BATCH) -> dict[str, np.ndarray]:
    """Batch number `step`, a pure function of it."""
    x = np.random.default_rng((7, step)).normal(size=(size, FEATURES)).astype(np.float32)
    return {"x": x, "y": np.sin(x.sum(1)).astype(np.float32)}


def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
    step = start
    while True:
        yield batch_at(step)
        step += 1


def pad_batch(batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Fills a short last batch to `size` with zeros; `weight` (b,) is 1 where real."""
    count = len(next(iter(batch.values())))
    batch = {"weight": np.ones(count, np.float32), **batch}
    return {
        name: np.concatenate([value, np.zeros((size - count, *value.shape[1:]), value.dtype)])
        for name, value in batch.items()
    }


def eval_batches() -> Iterator[dict[str, np.ndarray]]:
    yield pad_batch(batch_at(10_000), BATCH)
    yield pad_batch(batch_at(10_001, 3), BATCH)


def settings(
    optimizer: dict[str, Any] | None = None, ema: dict[str, Any] | None = None, **changes: Any
) -> Training:
    """Those of the toy, with changes; lists, as from JSON, become tuples."""
    adam = {"lr": 1e-2, "b2": 0.99, "clip": 1.0, "warmup": 3, "schedule": "cosine"}
    loop = {"steps": 10, "batch": BATCH, "log_every": 1, "checkpoint_every": 5}
    return Training(
        **_tuples(loop | changes),
        optimizer=Optimizer(**_tuples(adam | (optimizer or {}))),
        ema=Ema(**_tuples({"decay": 0.9} | (ema or {}))),
    )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


# Compiled once for each setting; a task of a test's own is not kept.
_PROGRAMS: dict[str, Program] = {}


def run(
    workdir: Path, task: Any = None, devices: int = 1, fsdp: int = 1, config: Any = None, **kw: Any
) -> TrainResult:
    """Trains the toy on a mesh of the first `devices`."""
    mesh, config = make_mesh(fsdp=fsdp, devices=jax.devices()[:devices]), config or settings()
    program = None if task else _PROGRAMS.get(name := repr((config, devices, fsdp)))
    if program is None:
        program = Program(task or ToyTask(), config, mesh)
        if task is None:
            _PROGRAMS[name] = program
    return Loop(program, **{"batches": batches, "seed": 3, "workdir": workdir, **kw}).train()


def same(one: Any, two: Any) -> bool:
    """Equal to the last bit, in structure too."""
    equal = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, two)
    return all(jax.tree.leaves(equal))
