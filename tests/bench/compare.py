"""Measures how fast this system runs here, beside the same network in plain PyTorch.

    python -m tests.bench.compare --config=configs/catch.py --size=tiny --peers=eager

Our programs (python -m stedm_jax.bench says which) and their peers, PyTorch eager and compiled with
our weights, checked first to give the same, run in turns, so that whatever else the machine does
meets all alike; the least time of each is compared. The part task has no peer. On a CPU that others
use too, look at the ratio by processor time.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from stedm_jax.bench import memory, ours
from stedm_jax.bench import own_speed as own
from stedm_jax.bench.__main__ import make_parser, read_case, show, some_of
from stedm_jax.bench.case import Case, random_params
from stedm_jax.bench.results import OURS, Part, row_of
from stedm_jax.bench.timing import alternate
from stedm_jax.common.commands import parse_with_keys, run_command
from stedm_jax.common.errors import UserError

PEERS = ("eager", "compile")
STEPS = {"train": "train_step", "sampler": "sampler_step"}
"""Part -> the method that prepares a peer: gives a call and, by name, what it computes."""
TOLERANCE = {("cpu", "float32"): 1e-3, ("gpu", "float32"): 1e-2}
BFLOAT16_TOLERANCE = 5e-2


@dataclass
class Compared(Part):
    """A part with its peers: how well they agree, and the speed of ours over that of the fastest
    peer, by wall and by processor time (None: there is no peer, or the time says nothing)."""

    errors: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None
    cpu_ratio: float | None = None

    def __post_init__(self) -> None:
        self.ratio, self.cpu_ratio = self._ratio("seconds"), self._ratio("cpu_seconds")
        if self.ratio is not None:
            by_cpu = f", {self.cpu_ratio:.2f} by processor time" if self.cpu_ratio else ""
            speed = f"{self.ratio:.2f} times the speed of the fastest peer"
            self.notes.append(f"{OURS} runs at {speed}{by_cpu}")
        for name, error in self.errors.items():
            self.notes.append(f"largest difference in {name}: {error:.1e}")

    def _ratio(self, what: str) -> float | None:
        seconds = {row.name: getattr(row, what) for row in self.rows}
        mine = seconds.pop(OURS, 0.0)
        return min(seconds.values()) / mine if seconds and min(*seconds.values(), mine) else None


class Comparison:
    """One run of the comparison.

    Args:
      case: what is measured.
      peer: with our weights (torch_peer.TorchPeer).
      kinds: in which it runs.
      seconds: to measure each part for.
    """

    def __init__(self, case: Case, peer: Any, kinds: Sequence[str], seconds: float):
        self.case, self.peer, self.kinds, self.seconds = case, peer, list(kinds), seconds
        self.ceiling = own.measure_ceiling(case, {"torch": peer.product})

    def machine(self) -> dict[str, Any]:
        """What it runs on."""
        return own.machine(self.case, self.ceiling) | {"torch": self.peer.torch.__version__}

    def measure(self, name: str) -> Part:
        """One of the parts."""
        if name not in STEPS:
            return own.measure(self.case, name, self.seconds, self.ceiling)
        ready = own.prepare(self.case, name, self.peer.params())
        return self.compare(own.TITLES[name], ready, STEPS[name])

    def compare(self, title: str, mine: ours.Ready, step: str) -> Compared:
        """Checks that ours and its peers compute the same, and lets them run in turns."""
        contenders, errors = {OURS: mine.call}, {}
        for kind in list(self.kinds):
            own.say(f"running torch {kind} for the first time")
            try:
                contenders[f"torch {kind}"], theirs = getattr(self.peer, step)(kind)
            except Exception as error:
                if kind == "eager":
                    raise
                self.kinds.remove(kind)  # PyTorch cannot compile here
                why = (str(error).splitlines() or [type(error).__name__])[0][:200]
                print(f"torch {kind} is left out, it failed: {why}", file=sys.stderr, flush=True)
                continue
            for each, value in theirs.items():
                errors[f"{each} (torch {kind})"] = relative_error(mine.result[each], value)
        self._check_errors(errors)
        peaks = {
            name: own.own_memory(self.case, mine) if name == OURS else self._memory(call, step)
            for name, call in contenders.items()
        }
        rows = [
            row_of(name, times, mine.images, mine.flops, self.ceiling, peaks[name])
            for name, times in alternate(contenders, self.seconds).items()
        ]
        return Compared(title, rows, mine.flops, errors=errors)

    def _memory(self, call: Callable[[], None], step: str) -> float | None:
        """What a peer holds and the most that a call takes beside it."""
        if not own.on_host(self.case):
            return self.peer.peak(call)
        call()  # what is made once is there
        risen = memory.growth(call)
        return None if risen is None else self.peer.held(step == "train_step") + risen

    def _check_errors(self, errors: dict[str, float]) -> None:
        limits = self.case.platform, self.case.settings.dtype
        most = TOLERANCE.get(limits, BFLOAT16_TOLERANCE)
        for name, error in errors.items():
            if not error <= most:
                raise UserError(
                    f"Ours and the peer do not compute the same: {name} differs by {error:.1e}, "
                    f"more than {most:.0e}. Comparing their speed would say nothing. Please report "
                    "it, with the command and the versions."
                )


def relative_error(mine: Any, theirs: Any) -> float:
    """Largest difference over the largest absolute value of theirs."""
    mine, theirs = np.asarray(jax.device_get(mine), np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())


def main(argv: list[str]) -> None:
    """The command.

    Raises:
      UserError: for anything that the user can repair; there is no peer.
    """
    parser = make_parser("tests.bench.compare", __doc__)
    add = parser.add_argument
    add("--peers", default=",".join(PEERS), help="some of %(default)s")
    orders = {"choices": ("channels_last", "contiguous"), "default": "channels_last"}
    add("--memory_order", **orders, help="of the peer [%(default)s]")
    add("--cudnn_benchmark", action="store_true", help="the peer's cuDNN tries its algorithms")
    arguments, overrides = parse_with_keys(parser, argv)
    kinds = some_of(arguments.peers, PEERS, "--peers")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both share a GPU's memory
    case, what = read_case(arguments, overrides)
    torch_peer = importlib.import_module("tests.bench.torch_peer")
    if missing := torch_peer.why_not(case):
        raise UserError(f"There is no peer: {missing}. python -m stedm_jax.bench needs none.")
    options = arguments.memory_order, arguments.cudnn_benchmark
    peer = torch_peer.TorchPeer(case, random_params(case.unet.abstract), *options)
    comparison = Comparison(case, peer, kinds, arguments.seconds)
    show(comparison.machine(), what, comparison.measure, arguments.json)


if __name__ == "__main__":
    run_command(main)
