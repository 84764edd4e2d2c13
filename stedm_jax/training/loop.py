"""The loop: the only one. It trains any Task, from scratch or from where an earlier run stopped.

Every random number and every batch is a function of (seed, step), so the step number is all there
is to resume from. The device is never waited for: while it works on a step, the metrics of the one
before are read.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any

import jax
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.text import duration, flops, size_of, table
from stedm_jax.training import peers
from stedm_jax.training.captions import Captions, captioned
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.hardware import Profile, peak_flops
from stedm_jax.training.logging import MetricLog, read_rows
from stedm_jax.training.program import Program
from stedm_jax.training.progress import Progress
from stedm_jax.training.rng import stream_key
from stedm_jax.training.sharding import param_shardings, place, replicated, to_global, to_replicated
from stedm_jax.training.signals import Signals
from stedm_jax.training.snapshots import Snapshots
from stedm_jax.training.state import TrainState, count_params
from stedm_jax.training.step import WATCHED, TrainingDiverged

HostBatch = dict[str, np.ndarray]


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves: last state, its scores, best step (the last, without `best`),
    seconds.

    `sums` are those that the scores were made from; None where this call did not have to evaluate.
    """

    state: TrainState
    metrics: dict[str, float]
    best_step: int
    seconds: float
    sums: dict[str, np.ndarray] | None = None


@dataclass
class Loop:
    """A training: goes on from `workdir/checkpoints` if there are any.

    Attributes:
      program: of the task; trainings that differ only in what follows can share it.
      batches: gives the iterator of this host's batches from a global step on.
      workdir: folder of the checkpoints, curves and pictures.
      seed: of the initialization and the noise.
      frozen: parameters that are not trained, handed to the task.
      eval_batches: gives the same batches, all of one size, each time.
      visual: gives the batch to draw from, equal on every host; called once, when the first picture
        is due.
      labels: gives the names of the rows and columns of pictures; called as `visual`.
      init_params: called when there is no sound checkpoint; gives the weights to start from, None
        for fresh ones.
      best: (metric, "max" or "min"): that checkpoint is kept as well.
      label: for the status line; "": the name of the task.
      signals: those of the run, which listen already; None: SIGTERM and Ctrl-C are heard while this
        trains.
    """

    program: Program
    _: KW_ONLY
    batches: Callable[[int], Iterator[HostBatch]]
    workdir: Path
    seed: int
    frozen: Any = None
    eval_batches: Callable[[], Iterator[HostBatch]] | None = None
    visual: Callable[[], HostBatch] | None = None
    labels: Callable[[], Mapping[str, Captions]] = dict
    init_params: Callable[[], Any] = lambda: None
    best: tuple[str, str] | None = None
    label: str = ""
    signals: Signals | None = None

    def __post_init__(self) -> None:
        program = self.program
        self.task, self.mesh, self.settings = program.task, program.mesh, program.settings
        self.progress = Progress(
            self.label or self.task.name, self.settings.steps, self.settings.batch
        )
        self.checkpoints = Checkpoints(self.workdir / "checkpoints", self.settings.keep, self.best)
        self.heard = self.signals or Signals()
        self.visual = cache(self.visual) if self.visual else None
        self.labels = cache(self.labels)
        self.scores: dict[str, float] = {}
        self.sums: dict[str, np.ndarray] | None = None  # of the scores
        # Step, metrics not yet read, and how long its data were waited for.
        self.pending: tuple[int, dict[str, jax.Array], float] | None = None
        self.window: list[dict[str, float]] = []  # metrics since the last row
        self.skipped = 0  # steps left out, those of earlier runs included

    def train(self) -> TrainResult:
        """Trains to the last step.

        Raises:
          UserError: starting weights that do not fit, a disk that is full, data that end too early.
          TrainingDiverged: something is no longer finite; the last good checkpoint is kept.
          Stopped, KeyboardInterrupt: after SIGTERM or Ctrl-C, the step being saved.
        """
        began = time.perf_counter()
        self.saved = self.checkpoints.latest()  # newest step in the checkpoints
        self.step = self.saved or 0
        if self.saved is None:
            self.state = self.program.init(self.seed, self.init_params())
        else:
            self.state = self.checkpoints.restore(self.program.state, self.saved)
            self.scores = self.checkpoints.metrics(self.saved)
        if self.saved is not None and self.step >= self.settings.steps and self._judged():
            self.progress.note(f"was done before: step {self.step:,}{_scores(self.scores)}")
        else:
            own = nullcontext() if self.signals else self.heard
            with own, self.heard.politely():
                self._go()
            done = f"step {self.step:,} in {duration(time.perf_counter() - began)}"
            self.progress.note(f"done: {done}{_scores(self.scores)}{self._left_out()}")
        seconds, best_step = time.perf_counter() - began, self.checkpoints.best_step() or self.step
        return TrainResult(self.state, self.scores, best_step, seconds, self.sums)

    def _judged(self) -> bool:
        """Whether the newest checkpoint has scores, or needs none."""
        return self.eval_batches is None or bool(self.scores)

    def _go(self) -> None:
        """Trains to the end, and leaves checkpoints and log closed, whatever happens."""
        peers.on_first(lambda: self.checkpoints.check_place(self.program.state))
        frozen = self.frozen or {}
        self.frozen = place(frozen, param_shardings(frozen, self.mesh))
        self.key = jax.jit(lambda: jax.random.key(self.seed), out_shardings=replicated(self.mesh))()
        self.progress.note(_greeting(self))
        self.profile = Profile(self.workdir / "profile", self.settings.profile)
        try:
            self.log = MetricLog(self.workdir, self.step, self.settings.wandb)
            if self.settings.ema.snapshot_every:
                self.snapshots = Snapshots(self.workdir, self.step)
            self.skipped = peers.on_first(
                lambda: sum("skipped" in row for row in read_rows(self.log.path))
            )
            with jax.set_mesh(self.mesh):
                self._steps()
            self.checkpoints.close()
            if self.heard.leaving():
                self._leave()
        except KeyboardInterrupt:
            raise  # at once: what was asked to stop politely is saved already
        except OSError as error:
            self.checkpoints.close()
            raise UserError(
                f"While training {self.task.name!r} in {self.workdir}, a file could not be read or "
                f"written ({error}). Make room on the disk or repair the file, then run the same "
                "command to go on."
            ) from error
        except BaseException:
            self.checkpoints.close()
            raise
        finally:
            self.profile.stop()
            if hasattr(self, "log"):
                self.log.close()

    def _steps(self) -> None:
        stopped = self.saved is not None and self._evaluates() and not self._judged()
        if stopped or (self.settings.steps == 0 and self.saved is None):
            self._milestone()  # where an earlier run was stopped in the middle of an evaluation
            if self.heard.leaving():
                self._leave()
        if self.step >= self.settings.steps:
            return
        feed, compiled = self.batches(self.step), None
        while self.step < self.settings.steps:
            batch, waited = self._next(feed)
            if compiled is None:
                compiled = self._compile(batch)
            self.profile.before(self.step + 1)
            self.state, metrics = compiled(self.state, self.frozen, batch, self.key)
            self.step += 1
            self._read()
            self.pending = (self.step, metrics, waited)
            stop = self.heard.due(self.mesh)
            if stop or self._pausing() or self.profile.ends(self.step):
                self._read()  # waits: nothing is saved before it is known to be finite
                if self.profile.ends(self.step):
                    self.profile.stop()
                if not stop:
                    self._milestone()
            if stop or self.heard.leaving():
                self._leave()

    def _next(self, feed: Iterator[HostBatch]) -> tuple[dict[str, jax.Array], float]:
        """The next batch, and the seconds that the device may have stood idle for it."""
        began = time.perf_counter()
        try:
            batch = next(feed)
        except StopIteration:
            raise UserError(
                f"The data of {self.task.name!r} ended at step {self.step} of "
                f"{self.settings.steps}. They have to repeat; check that there are enough for one "
                f"batch of {self.settings.batch}."
            ) from None
        on_device = to_global(batch, self.mesh)
        idle = self.pending is None or self.pending[1]["loss"].is_ready()
        return on_device, (time.perf_counter() - began) * idle

    def _compile(self, batch: dict[str, jax.Array]) -> Any:
        wanted = self.settings.batch
        wrong = {name: v.shape for name, v in batch.items() if v.shape[0] != wanted}
        if wrong:
            raise UserError(
                f"The data of {self.task.name!r} give {wrong}, but the global batch is {wanted}; "
                f"each host gives {wanted // jax.process_count()} of them."
            )
        with self.progress.paused():
            began = time.perf_counter()
            compiled, new = self.program.step(self.frozen, batch, self.key)
            peak = peak_flops(self.mesh.devices.flat[0].device_kind)
            self.progress.measure(self.program.flops / self.mesh.size, peak)
            if new:
                seconds = time.perf_counter() - began
                self.progress.note(f"compiled in {seconds:.1f} s{_costs(self.program, compiled)}")
        return compiled

    def _read(self) -> None:
        """Reads the metrics that wait, stops at what is not finite, logs."""
        if self.pending is None:
            return
        (step, arrays, waited), self.pending = self.pending, None
        values = {name: float(value) for name, value in jax.device_get(arrays).items()}
        values.pop("skipped", None)
        wrong = [name for name in WATCHED if not math.isfinite(values[name])]
        if wrong:
            self._leave_out(step, wrong[0], values[wrong[0]])
        else:
            self.window.append(values)
        self.progress.advance(step, None if wrong else values["loss"], waited)
        if step % self.settings.log_every == 0 or step == self.settings.steps:
            self._log(step)

    def _log(self, step: int) -> None:
        """One row of the means since the last one, if there is anything."""
        if self.window:
            names = self.window[0]
            means = {name: float(np.mean([row[name] for row in self.window])) for name in names}
            self.log.scalars(step, means | self.progress.rates())
            self.window.clear()

    def _leave_out(self, step: int, metric: str, value: float) -> None:
        """Counts a step that changed nothing because something was not finite; too many of them end
        the training."""
        most = self.settings.skip_bad
        if self.skipped >= most:
            raise TrainingDiverged(step, metric, value, self.saved, self.skipped)
        self.skipped += 1
        self.log.scalars(step, {"skipped": 1.0})
        self.progress.note(
            f"step {step:,} is left out: {metric} is {value} ({self.skipped} of at most {most})"
        )

    def _left_out(self) -> str:
        """How many steps were left out, for the last line; empty if none was."""
        return f"  {self.skipped} step(s) left out" if self.skipped else ""

    def _at(self, every: int) -> bool:
        return self.step == self.settings.steps or (every > 0 and self.step % every == 0)

    def _evaluates(self) -> bool:
        return self.eval_batches is not None and self._at(self.settings.eval_every)

    def _draws(self) -> bool:
        every = self.settings.visual_every
        return self.visual is not None and every > 0 and self._at(every)

    def _snaps(self) -> bool:
        every = self.settings.ema.snapshot_every
        return every > 0 and self.step > 0 and self._at(every)

    def _saves(self) -> bool:
        judged = self.checkpoints.best is not None and self._evaluates()
        return judged or self._at(self.settings.checkpoint_every)

    def _pausing(self) -> bool:
        return self._evaluates() or self._draws() or self._saves() or self._snaps()

    def _milestone(self) -> None:
        """Evaluates, draws and saves what is due at this step."""
        with self.progress.paused():
            self._snap()
            scores = self._score() if self._evaluates() else None
            if self.visual and self._draws() and not self.heard.leaving():
                self._draw(self.visual())
            if self._saves():
                self._save(scores)

    def _draw(self, batch: HostBatch) -> None:
        """Logs what the task shows of a batch: pictures, and numbers."""
        on_device = to_replicated(batch, self.mesh)
        key = stream_key(self.seed, "visual")
        drawn = self.program.draw(self.state.weights, self.frozen, on_device, key)
        drawn, names = jax.device_get(drawn), self.labels()
        pictures = {
            name: captioned(each, *names.get(name, ((), ())))
            for name, each in drawn.items()
            if each.ndim
        }
        self.log.images(self.step, pictures)
        numbers = {name: float(each) for name, each in drawn.items() if not each.ndim}
        if numbers:
            self.log.scalars(self.step, numbers, "samples/")
            self.progress.note(f"step {self.step:,} samples{_scores(numbers)}")

    def _score(self) -> dict[str, float] | None:
        assert self.eval_batches is not None
        evaluate, stop = self.program.evaluate, lambda: self.heard.due(self.mesh)
        sums = evaluate.sums(self.state.weights, self.frozen, self.eval_batches(), self.seed, stop)
        if sums is None:
            return None
        scores, best = evaluate.scores(sums), self.checkpoints.best
        if best is not None and best[0] not in scores:
            raise ValueError(
                f"best names {best[0]!r}, but task {self.task.name!r} gives {sorted(scores)}"
            )
        self.scores, self.sums = scores, sums
        self.log.scalars(self.step, scores, "eval/")
        self.progress.note(f"step {self.step:,}{_scores(scores)}")
        return scores

    def _snap(self) -> None:
        """Before the checkpoint of the same step, as a run that goes on from that needs it."""
        if self._snaps():
            self.snapshots.write(self.step, self.state.tracks)

    def _save(self, scores: dict[str, float] | None) -> None:
        self.checkpoints.save(self.step, self.state, scores)
        self.saved = self.step

    def _leave(self) -> None:
        self._log(self.step)
        if self.saved != self.step:
            self._snap()
            self._save(None)
        self.checkpoints.close()
        self.progress.note(
            f"stopped at step {self.step:,}, which is saved; run the same command to go on"
            f"{self._left_out()}"
        )
        self.heard.end(f"at step {self.step}, which is saved in {self.checkpoints.dir}")


def _greeting(loop: Loop) -> str:
    params, settings, shape = loop.state.all_params, loop.settings, loop.mesh.shape
    frozen = count_params(loop.frozen)
    size = f"{count_params(params):,} parameters" + (f" and {frozen:,} frozen" if frozen else "")
    origin = f"going on from step {loop.step:,}" if loop.step else "starting"
    parts = {name: count_params(tree) for name, tree in params.items()}
    parts |= {f"{name} (frozen)": count_params(tree) for name, tree in loop.frozen.items()}
    sizes = table([(name, f"{number:,}") for name, number in parts.items()])
    below = indent("\n".join([sizes, *loop.program.notes]), "    ")
    return (
        f"{origin}: {size}, {settings.steps:,} steps of {settings.batch} images "
        f"on mesh data {shape['data']} x fsdp {shape['fsdp']}\n{below}"
    )


def _costs(program: Program, compiled: Any) -> str:
    """Operations of a step and its memory, as far as they are known, as lines of a table."""
    total, memory = program.flops, compiled.memory_analysis()
    networks = program.flops_of if len(program.flops_of) > 1 else {}
    costs = {
        "each image": flops(total / program.settings.batch),
        "a step": flops(total),
        **{f"  {name}": flops(number) for name, number in networks.items()},
        "a step on each device": flops(total / program.mesh.size),
    }
    for name, key in (("state", "argument_size_in_bytes"), ("temporaries", "temp_size_in_bytes")):
        if size := getattr(memory, key, 0):
            costs[name] = size_of(size)
    return "\n" + indent(table(list(costs.items())), "    ")


def _scores(scores: dict[str, float]) -> str:
    return "".join(f"  {name} {value:.4g}" for name, value in scores.items())
