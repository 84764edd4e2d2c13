"""Stage ssl: learns an encoder from tiles without labels, and scores it by patient on those that
have some.

Only where the configuration's `stages` names it. The scores stand beside those of the same encoder
untrained and of mean and standard deviation of each color, since color alone says much in
histology.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stedm_jax.common.labels import VOID
from stedm_jax.data.crops import MultiCrop
from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.evaluation.collapse import named_collapse
from stedm_jax.evaluation.probe import Tiles, joined, leave_one_out, probe
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context, spread
from stedm_jax.experiment.learn import learn
from stedm_jax.tasks.build import build_ssl
from stedm_jax.tasks.images import to_network
from stedm_jax.tasks.ssl import BACKBONE, SslTask
from stedm_jax.training import peers
from stedm_jax.training.logging import MetricLog
from stedm_jax.training.program import Program
from stedm_jax.training.rng import stream_key
from stedm_jax.training.sharding import replicated, to_global

SCORES = ("knn_accuracy", "linear_accuracy", "share_r2", "share_error")


def run(context: Context, cell: Cell, learned: Any) -> None:
    """Trains, names a collapse, and leaves the scores of kNN and linear probe in the result and the
    metrics."""
    settings, section = context.settings, context.settings.ssl
    task = build_ssl(settings, context.dtype)
    program = Program(task, section.train, context.mesh)
    tiles = tile_dataset(context.sources(section.splits), seed=settings.seed)
    crops = MultiCrop(section.crops, section.augment)
    dataset = tiles.seed(settings.seed + 1).random_map(crops)
    rows = spread(context.rows("val"), section.probe.tiles)
    judged = context.eval_batches(context.reader, rows, section.train.batch)
    probed, missing = _probed(context)
    if missing:
        print(f"ssl: the encoder is not probed: {missing}", flush=True)
    with context.workdir.timed(cell.name) as result:
        trained = learn(context, program, section, cell.name, dataset=dataset, eval_batches=judged)
        result["collapse"] = named_collapse(trained.metrics)
        scores = {} if missing else _probes(context, task, trained.state.weights, probed)
        means = {
            f"{name}_{score}": value
            for name, each in scores.items()
            for score, value in each[""].items()
        }
        peers.on_first(lambda: _log(context, cell, means))
        result["metrics"] = trained.metrics | means
        result["probe"] = {name: _rounded(each) for name, each in scores.items()}
    for line in _table(scores, result["collapse"]):
        print(f"ssl: {line}", flush=True)


def _probed(context: Context) -> tuple[dict[str, list[IndexRow]], str]:
    """The rows of train and val that the probe reads, at most `probe.tiles` of each, and why there
    are not enough, or "": those of which at least half is labeled with a class that is learned."""
    settings, known = context.settings, context.classes.table
    least, rows = 0.5 * settings.data.tile**2, {}
    for split in ("train", "val"):
        every = context.tiles.index(split)
        labeled = [
            sum(count for n, count in enumerate(row.pixels) if known[n] != VOID) for row in every
        ]
        rows[split] = [row for row, count in zip(every, labeled, strict=True) if count >= least]
    empty = [split for split, each in rows.items() if not each]
    patients = {row.patient for each in rows.values() for row in each}
    missing = ""
    if settings.ssl.probe.protocol == "val" and empty:
        missing = f"no tile of {' and '.join(empty)} is labeled to at least half"
    elif len(patients) < 2:
        missing = (
            f"{len(patients)} patient(s) of train and val have tiles that are labeled to at least"
            " half, 2 are needed"
        )
    return {
        split: spread(each, settings.ssl.probe.tiles) if each else []
        for split, each in rows.items()
    }, missing


def _probes(
    context: Context, task: SslTask, params: Any, rows: Mapping[str, Sequence[IndexRow]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Features (trained, random, color) -> patient -> scores; under "" the means."""
    fresh = jax.jit(task.init, out_shardings=replicated(context.mesh))(
        stream_key(context.settings.seed, "init")
    )
    network, color = (
        _seer(context, task.embed),
        _seer(context, lambda _, image: color_features(image)),
    )
    see = {
        "trained": partial(network, {BACKBONE: params[BACKBONE]}),
        "random": partial(network, {BACKBONE: fresh[BACKBONE]}),
        "colour": partial(color, {}),
    }
    settings, out = context.settings.ssl.probe, {}
    for name, describe in see.items():
        found = {split: _tiles(context, each, describe) for split, each in rows.items() if each}
        how = {"neighbors": settings.neighbours, "temperature": settings.temperature}
        if settings.protocol == "val":
            out[name] = probe([(found["train"], found["val"])], **how)
        else:
            out[name] = probe(leave_one_out(joined(list(found.values()))), **how)
    return out


def _seer(
    context: Context, embed: Callable[[Any, Array], Array]
) -> Callable[[Any, dict[str, Array]], dict[str, Array]]:
    """A compiled function: parameters and batch -> features, pixels of each class, patient and
    weight of its tiles."""
    classes = len(context.classes.names)

    def see(params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        features = embed(params, to_network(batch["image"]))
        counts = jnp.stack(
            [(batch["mask"] == number).sum((1, 2)) for number in range(classes)], axis=1
        )
        return {
            "features": features,
            "counts": counts,
            "patient": batch["patient"],
            "weight": batch["weight"],
        }

    return jax.jit(see, out_shardings=replicated(context.mesh))


def color_features(image: Array) -> Array:
    """Mean and standard deviation of each channel of (b, h, w, 3) images: (b, 6)."""
    return jnp.concatenate([image.mean((1, 2)), image.std((1, 2))], axis=-1)


def _tiles(
    context: Context,
    rows: Sequence[IndexRow],
    describe: Callable[[dict[str, Array]], dict[str, Array]],
) -> Tiles:
    """What a probe reads of the rows, but of records that are damaged."""
    names = np.array(sorted({row.patient for row in rows}))
    seen: list[dict[str, np.ndarray]] = []
    for batch in context.eval_batches(context.reader, rows, context.settings.ssl.train.batch)():
        seen.append(jax.device_get(describe(to_global(batch, context.mesh))))
    whole = {key: np.concatenate([each[key] for each in seen]) for key in seen[0]}
    kept = whole["weight"] > 0
    counts = whole["counts"][kept].astype(np.float64)
    share = counts[:, list(context.classes.foreground)].sum(1) / np.maximum(counts.sum(1), 1.0)
    return Tiles(whole["features"][kept], counts.argmax(1), share, names[whole["patient"][kept]])


def _log(context: Context, cell: Cell, means: dict[str, float]) -> None:
    steps = context.settings.ssl.train.steps
    log = MetricLog(context.workdir.folder(cell.name), steps)
    log.scalars(steps, means, "probe/")
    log.close()


def _rounded(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name or "mean": {key: round(value, 4) for key, value in each.items()}
        for name, each in scores.items()
    }


def _table(scores: dict[str, dict[str, dict[str, float]]], collapse: Sequence[str]) -> list[str]:
    if not scores:
        return list(collapse)
    rows = [
        "features  "
        + "".join(f"{name:>18}" for name in SCORES)
        + "   (means over patients; r2 over tiles)"
    ]
    for name, each in scores.items():
        rows.append(f"{name:<10}" + "".join(f"{each[''][score]:>18.3f}" for score in SCORES))
    return rows + list(collapse)
