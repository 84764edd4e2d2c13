"""Lets our programs and their peers run in turns, and says what came of it."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax import __version__
from stedm_jax.bench import memory, ours
from stedm_jax.bench.case import Case, random_params
from stedm_jax.bench.ceiling import CPU_SIDE, OTHER_SIDE, ceiling, our_product
from stedm_jax.bench.results import OURS, Part, row_of
from stedm_jax.bench.timing import alternate
from stedm_jax.common.errors import UserError
from stedm_jax.common.processors import cores
from stedm_jax.models.functional import Params

TOLERANCE = {("cpu", "float32"): 1e-3, ("gpu", "float32"): 1e-2}
BFLOAT16_TOLERANCE = 5e-2


class Bench:
    """One run of the bench.

    Args:
      case: what is measured.
      make_peer: makes the peer with our weights (tests/bench/torch_peer.py); None: there is none.
      kinds: in which the peer runs.
      seconds: to measure each part for.
    """

    def __init__(
        self,
        case: Case,
        make_peer: Callable[[Params], Any] | None,
        kinds: Sequence[str],
        seconds: float,
    ):
        self.case, self.seconds = case, seconds
        self.kinds = list(kinds) if make_peer else []
        self.host = case.platform == "cpu"
        self._peer: Any = make_peer(random_params(case.unet.abstract)) if make_peer else None
        self._ceiling = self._measure_ceiling()

    def machine(self) -> dict[str, Any]:
        """What it ran on, and the ceilings."""
        kind = self.case.mesh.devices.flat[0].device_kind
        torch = {"torch": self._peer.torch.__version__} if self._peer else {}
        return {
            "device": f"{self.case.mesh.size} x {kind}" + (f" ({_cpu()})" if self.host else ""),
            "cores": cores(),
            "load": os.getloadavg()[0],
            "dtype": self.case.settings.dtype,
            "batch": self.case.batch,
            "stedm_jax": __version__,
            "jax": jax.__version__,
            **torch,
            "ceiling_flops": self._ceiling[0],
            "ceiling_flops_per_cpu_second": self._ceiling[1],
        }

    def train(self) -> Part:
        """The train step of the denoiser."""
        _say("compiling our train step")
        mine = ours.unet_step(self.case, self._params())
        return self._part("train step, denoiser", mine, "train_step")

    def sampler(self) -> Part:
        """A step of the sampler."""
        _say("compiling our sampler step")
        mine = ours.sampler_step(self.case, self._params())
        return self._part("sampler step, guided pair", mine, "sampler_step")

    def task(self) -> Part:
        """The train step of stage generator, which has no peer."""
        _say("compiling the train step of the whole task")
        part = self._part("train step, whole task", ours.task_step(self.case), "")
        part.notes.append("ours alone: the peer has no autoencoder and no style encoder")
        return part

    def _params(self) -> Params:
        """Those that the peer has now."""
        return self._peer.params() if self._peer else random_params(self.case.unet.abstract)

    def _part(self, name: str, mine: ours.Ready, step: str) -> Part:
        """Checks that ours and its peers compute the same, and lets them run in turns.

        Args:
          name: of the part.
          mine: our program.
          step: the method that prepares a peer: gives a call and, by name, what it computes.
        """
        mine.call()
        contenders = {OURS: mine.call}
        errors: dict[str, float] = {}
        for kind in list(self.kinds) if step else ():
            _say(f"running torch {kind} for the first time")
            try:
                contenders[f"torch {kind}"], theirs = getattr(self._peer, step)(kind)
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
        peak = {each: self._memory(each, call, mine, step) for each, call in contenders.items()}
        rows = [
            row_of(each, times, mine.images, mine.flops, self._ceiling, peak[each])
            for each, times in alternate(contenders, self.seconds).items()
        ]
        return Part(name, rows, mine.flops, errors)

    def _memory(
        self, name: str, call: Callable[[], None], mine: ours.Ready, step: str
    ) -> float | None:
        """What the contender holds and the most that a call takes beside it."""
        if not self.host:
            return float(mine.held + mine.program) if name == OURS else self._peer.peak(call)
        call()  # what is made once is there
        risen = memory.growth(call)
        held = mine.held if name == OURS else self._peer.held(step == "train_step")
        return None if risen is None else held + risen

    def _measure_ceiling(self) -> tuple[float, float]:
        """FLOP/s, and on a CPU FLOP for a second of the processor, of the faster of XLA's and
        PyTorch's product."""
        side, dtype = CPU_SIDE if self.host else OTHER_SIDE, jnp.dtype(self.case.settings.dtype)
        products = {"xla": our_product(dtype, side, self.case.mesh.devices.flat[0])}
        if self._peer:
            products["torch"] = self._peer.product(side)
        wall, cpu = ceiling(products, side)
        return (wall, cpu) if self.host else (wall * self.case.mesh.size, 0.0)

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


def relative_error(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest absolute value of theirs."""
    ours, theirs = np.asarray(jax.device_get(ours), np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _say(what: str) -> None:
    print(f"bench: {what} ...", file=sys.stderr, flush=True)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
