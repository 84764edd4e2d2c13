"""The loop: the only one. It trains any Task, from scratch or from where a run before was stopped.

Every random number and every batch is a function of (seed, step), so the step number is all there
is to resume from. The device is never waited for: while it works on a step, the metrics of the one
  before are read.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.training import peers
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.hardware import Profile, peak_flops
from stedm_jax.training.labels import Labels, labelled
from stedm_jax.training.logging import MetricLog, Progress, clock, count, read_rows
from stedm_jax.training.program import Program
from stedm_jax.training.rng import stream_key
from stedm_jax.training.sharding import (
    local_batch_size,
    param_shardings,
    place,
    replicated,
    to_global,
    to_replicated,
)
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


def train(
    program: Program,
    *,
    batches: Callable[[int], Iterator[HostBatch]],
    workdir: Path,
    seed: int,
    frozen: Any = None,
    eval_batches: Callable[[], Iterator[HostBatch]] | None = None,
    visual: Callable[[], HostBatch] | None = None,
    labels: Callable[[], Mapping[str, Labels]] = dict,
    init_params: Callable[[], Any] = lambda: None,
    best: tuple[str, str] | None = None,
    label: str = "",
    signals: Signals | None = None,
) -> TrainResult:
    """Trains to the last step, going on from `workdir/checkpoints` if there are any.

    Args:
      program: of the task; trainings that differ only in what follows can share it.
      batches: gives the iterator of this host's batches from a global step on.
      frozen: parameters that are not trained, handed to the task ({} when None).
      eval_batches: gives the same batches, all of one size, each time.
      visual: gives the batch to draw from, equal on every host; called once, when the first picture
        is due.
      labels: gives the names of the rows and columns of pictures; called as `visual`.
      init_params: called when there is no sound checkpoint; gives the weights to start from, None
        for fresh ones.
      best: (metric, "max" or "min"): that checkpoint is kept as well.
      signals: those of the run, which listen already; None: SIGTERM and Ctrl-C are heard while this
        trains.

    Raises:
      UserError: starting weights that do not fit, a disk that is full, data that end too early.
      TrainingDiverged: something is no longer finite; the last good checkpoint is kept.
      Stopped, KeyboardInterrupt: after SIGTERM or Ctrl-C, the step being saved.
    """
    began = time.perf_counter()
    task, settings = program.task, program.settings
    checkpoints = Checkpoints(Path(workdir) / "checkpoints", settings.keep, best)
    saved = checkpoints.latest()
    state = (
        program.init(seed, init_params())
        if saved is None
        else checkpoints.restore(program.state, saved)
    )
    progress = Progress(label or task.name, settings.steps, settings.batch)
    if (
        saved is not None
        and saved >= settings.steps
        and (eval_batches is None or checkpoints.metrics(saved))
    ):
        scores, best_step = checkpoints.metrics(saved), checkpoints.best_step() or saved
        progress.note(f"was done before: step {saved:,}{_scores(scores)}")
        return TrainResult(state, scores, best_step, time.perf_counter() - began)

    frozen = {} if frozen is None else frozen
    frozen = place(frozen, param_shardings(frozen, program.mesh))
    with nullcontext(signals) if signals else Signals() as heard, heard.politely():
        peers.on_first(lambda: checkpoints.check_place(program.state))
        run = _Run(
            program,
            seed,
            frozen,
            checkpoints,
            progress,
            eval_batches,
            visual,
            labels,
            state,
            saved,
            heard,
        )
        run.go(batches, Path(workdir))
    seconds = time.perf_counter() - began
    progress.note(
        f"done: step {run.step:,} in {clock(seconds)}{_scores(run.scores)}{run.left_out()}"
    )
    return TrainResult(
        run.state, run.scores, checkpoints.best_step() or run.step, seconds, run.sums
    )


@dataclass
class _Run:
    program: Program
    seed: int
    frozen: Any
    checkpoints: Checkpoints
    progress: Progress
    eval_batches: Callable[[], Iterator[HostBatch]] | None
    visual: Callable[[], HostBatch] | None
    labels: Callable[[], Mapping[str, Labels]]
    state: TrainState
    saved: int | None  # newest step in the checkpoints
    signals: Signals
    scores: dict[str, float] = field(default_factory=dict)
    sums: dict[str, np.ndarray] | None = None  # of the scores
    pending: tuple[int, dict[str, jax.Array], float] | None = (
        None  # step, metrics not yet read, data wait
    )
    window: list[dict[str, float]] = field(
        default_factory=list
    )  # metrics since the last row of the log
    skipped: int = 0  # steps left out, those of runs before included

    def __post_init__(self) -> None:
        self.task, self.mesh, self.settings = (
            self.program.task,
            self.program.mesh,
            self.program.settings,
        )
        self.step = self.saved or 0
        self.key = jax.jit(lambda: jax.random.key(self.seed), out_shardings=replicated(self.mesh))()

    def go(self, batches: Callable[[int], Iterator[HostBatch]], workdir: Path) -> None:
        """Trains to the end, and leaves checkpoints and log closed, whatever happens."""
        self.progress.note(_greeting(self))
        self.profile = Profile(workdir / "profile", self.settings.profile)
        try:
            self.log = MetricLog(workdir, self.step, self.settings.wandb)
            if self.settings.ema.snapshot_every:
                self.snapshots = Snapshots(workdir, self.step)
            self.skipped = peers.on_first(
                lambda: sum("skipped" in row for row in read_rows(self.log.path))
            )
            with jax.set_mesh(self.mesh):
                self._steps(batches)
            self.checkpoints.close()
            if self.signals.leaving():
                self._leave()
        except KeyboardInterrupt:
            raise  # at once: what was told to stop politely is saved already
        except OSError as error:
            self.checkpoints.close()
            raise UserError(
                f"While training {self.task.name!r} in {workdir}, a file could not be read or written "
                f"({error}). Make room on the disk or mend the file, then run the same command to go on."
            ) from error
        except BaseException:
            self.checkpoints.close()
            raise
        finally:
            self.profile.stop()
            if hasattr(self, "log"):
                self.log.close()

    def _steps(self, batches: Callable[[int], Iterator[HostBatch]]) -> None:
        if self.saved is not None and self._evaluates() and not self.checkpoints.metrics(self.step):
            self._milestone()  # a run before was stopped in the middle of this evaluation
            if self.signals.leaving():
                self._leave()
        if self.settings.steps == 0 and self.saved is None:
            self._milestone()
            if self.signals.leaving():
                self._leave()
        if self.step >= self.settings.steps:
            return
        feed = batches(self.step)
        compiled = None
        while self.step < self.settings.steps:
            batch, waited = self._next(feed)
            if compiled is None:
                compiled = self._compile(batch)
            self.profile.before(self.step + 1)
            self.state, metrics = compiled(self.state, self.frozen, batch, self.key)
            self.step += 1
            self._read()
            self.pending = (self.step, metrics, waited)
            stop = self.signals.due(self.mesh)
            if stop or self._pausing() or self.profile.ends(self.step):
                self._read()  # waits for this step: nothing is saved before it is known to be finite
                if self.profile.ends(self.step):
                    self.profile.stop()
                if not stop:
                    self._milestone()
            if stop or self.signals.leaving():
                self._leave()

    def _next(self, feed: Iterator[HostBatch]) -> tuple[dict[str, jax.Array], float]:
        """The next batch, and the seconds that the device may have stood idle for it."""
        began = time.perf_counter()
        try:
            batch = next(feed)
        except StopIteration:
            raise UserError(
                f"The data of {self.task.name!r} ended at step {self.step} of {self.settings.steps}. "
                f"They have to repeat; check that there are enough for one batch of {self.settings.batch}."
            ) from None
        on_device = to_global(batch, self.mesh)
        idle = self.pending is None or self.pending[1]["loss"].is_ready()
        return on_device, (time.perf_counter() - began) * idle

    def _compile(self, batch: dict[str, jax.Array]) -> Any:
        wrong = {name: v.shape for name, v in batch.items() if v.shape[0] != self.settings.batch}
        if wrong:
            raise UserError(
                f"The data of {self.task.name!r} give {wrong}, but the global batch is "
                f"{self.settings.batch}; each host gives {local_batch_size(self.settings.batch)} of them."
            )
        with self.progress.paused():
            began = time.perf_counter()
            compiled, new = self.program.step(self.frozen, batch, self.key)
            flops = self.program.flops / self.mesh.size
            self.progress.measure(flops, peak_flops(self.mesh.devices.flat[0].device_kind))
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
            self._left_out(step, wrong[0], values[wrong[0]])
        else:
            self.window.append(values)
        self.progress.advance(step, None if wrong else values["loss"], waited)
        if step % self.settings.log_every == 0 or step == self.settings.steps:
            self._log(step)

    def _log(self, step: int) -> None:
        """One row of the means since the last one, if there is anything."""
        if self.window:
            means = {
                name: float(np.mean([row[name] for row in self.window])) for name in self.window[0]
            }
            self.log.scalars(step, {**means, **self.progress.rates()})
            self.window.clear()

    def _left_out(self, step: int, metric: str, value: float) -> None:
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

    def left_out(self) -> str:
        """How many steps were left out, for the last line; empty if none was."""
        return f"  {self.skipped} step(s) left out" if self.skipped else ""

    def _at(self, every: int) -> bool:
        return self.step == self.settings.steps or (every > 0 and self.step % every == 0)

    def _evaluates(self) -> bool:
        return self.eval_batches is not None and self._at(self.settings.eval_every)

    def _draws(self) -> bool:
        return (
            self.visual is not None
            and self.settings.visual_every > 0
            and self._at(self.settings.visual_every)
        )

    def _saves(self) -> bool:
        judged = self.checkpoints.best is not None and self._evaluates()
        return judged or self._at(self.settings.checkpoint_every)

    def _pausing(self) -> bool:
        return self._evaluates() or self._draws() or self._saves() or self._snaps()

    def _snaps(self) -> bool:
        every = self.settings.ema.snapshot_every
        return every > 0 and self.step > 0 and self._at(every)

    def _milestone(self) -> None:
        """Evaluates, draws and saves what is due at this step."""
        with self.progress.paused():
            self._snap()
            scores = self._score() if self._evaluates() else None
            if self._draws() and not self.signals.leaving():
                batch = to_replicated(self.visual_batch, self.mesh)
                key = stream_key(self.seed, "visual")
                drawn = jax.device_get(
                    self.program.draw(self.state.weights, self.frozen, batch, key)
                )
                pictures = {name: each for name, each in drawn.items() if each.ndim}
                names = {name: self.names.get(name, ((), ())) for name in pictures}
                self.log.images(
                    self.step,
                    {name: labelled(each, *names[name]) for name, each in pictures.items()},
                )
                numbers = {name: float(each) for name, each in drawn.items() if not each.ndim}
                if numbers:
                    self.log.scalars(self.step, numbers, "samples/")
                    self.progress.note(f"step {self.step:,} samples{_scores(numbers)}")
            if self._saves():
                self._save(scores)

    @cached_property
    def visual_batch(self) -> HostBatch:
        assert self.visual is not None
        return self.visual()

    @cached_property
    def names(self) -> Mapping[str, Labels]:
        return self.labels()

    def _score(self) -> dict[str, float] | None:
        assert self.eval_batches is not None
        evaluate, stop = self.program.evaluate, lambda: self.signals.due(self.mesh)
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
        """Before the checkpoint of the same step, so that none is missing where a run goes on from
        that."""
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
            f"stopped at step {self.step:,}, which is saved; run the same command to go on{self.left_out()}"
        )
        self.signals.end(f"at step {self.step}, which is saved in {self.checkpoints.dir}")


def _greeting(run: _Run) -> str:
    frozen, shape, steps = count_params(run.frozen), run.mesh.shape, run.settings.steps
    size = f"{count_params(run.state.all_params):,} parameters" + (
        f" and {frozen:,} frozen" if frozen else ""
    )
    origin = f"going on from step {run.step:,}" if run.step else "starting"
    parts = {name: count_params(tree) for name, tree in run.state.all_params.items()}
    parts |= {f"{name} (frozen)": count_params(tree) for name, tree in run.frozen.items()}
    table = "".join(f"\n    {name:<24}{number:>16,}" for name, number in parts.items())
    table += "".join(f"\n    {line}" for line in run.program.told)
    return (
        f"{origin}: {size}, {steps:,} steps of {run.settings.batch} images "
        f"on mesh data {shape['data']} x fsdp {shape['fsdp']}{table}"
    )


def _costs(program: Program, compiled: Any) -> str:
    """Operations of a step and its memory, as far as they are known, as lines of a table."""
    total, memory = program.flops, compiled.memory_analysis()
    costs = {
        "FLOP for each image": total / program.settings.batch,
        "FLOP of a step": total,
        **{
            f"  of {name}": number
            for name, number in program.flops_of.items()
            if len(program.flops_of) > 1
        },
        "FLOP on each device": total / program.mesh.size,
        "bytes of its state": getattr(memory, "argument_size_in_bytes", 0),
        "bytes of temporaries": getattr(memory, "temp_size_in_bytes", 0),
    }
    return "".join(
        f"\n    {name:<24}{count(float(number)):>16}" for name, number in costs.items() if number
    )


def _scores(scores: dict[str, float]) -> str:
    return "".join(f"  {name} {value:.4g}" for name, value in scores.items())
