"""Lets our programs and their peers run in turns, and tells what came of it."""

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from stedm_jax import __version__
from stedm_jax.bench import memory, ours
from stedm_jax.bench.case import Case, random_params
from stedm_jax.bench.ceiling import OTHERS, SIDE, ceiling, our_product
from stedm_jax.bench.loader import CODECS, TILES, loader_speed, make_tiles
from stedm_jax.bench.report import OURS, Part, row_of
from stedm_jax.bench.timing import alternate
from stedm_jax.bench.torch_peer import TorchPeer, relative_error
from stedm_jax.common.errors import UserError

PARTS = ("train", "sampler", "task", "loader")
TOLERANCE = {("cpu", "float32"): 1e-3, ("gpu", "float32"): 1e-2}
LOW = 5e-2  # of bfloat16


class Bench:
    """One run of the bench.

    Args:
      case: what is measured.
      peer: makes the peer with our weights; None: there is none.
      kinds: of torch_peer.PEERS.
      seconds: to measure each part for.
    """

    def __init__(
        self,
        case: Case,
        peer: Callable[[Any], TorchPeer] | None,
        kinds: Sequence[str],
        seconds: float,
    ):
        self.case, self.kinds, self.seconds = case, list(kinds) if peer else [], seconds
        self.host = case.platform == "cpu"
        self._peer = peer(self._params) if peer else None
        self._ceiling = self._measure_ceiling()

    @cached_property
    def _params(self) -> Any:
        return random_params(self.case.unet.abstract)

    def machine(self) -> dict[str, Any]:
        """What it ran on, and the ceilings."""
        device = self.case.mesh.devices.flat[0]
        torch = {"torch": self._peer.torch.__version__} if self._peer else {}
        return {
            "device": f"{self.case.mesh.size} x {device.device_kind}"
            + (f" ({_cpu()})" if self.host else ""),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "load": os.getloadavg()[0],
            "dtype": self.case.dtype,
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
        mine = ours.unet_step(self.case, self._params)
        mine.call()
        contenders: dict[str, Callable[[], None]] = {OURS: mine.call}
        found = {name: float(mine.result[name]) for name in ("loss", "grad_norm")}
        errors: dict[str, float] = {}
        for kind, theirs in self._each_kind(lambda peer, kind: peer.check_step(kind)):
            errors |= {
                f"{name} (torch {kind})": abs(found[name] / theirs[name] - 1) for name in found
            }
        self._agree(errors)
        if self._peer:
            self._peer.prepare_training()
            contenders |= {f"torch {kind}": self._peer.train_step(kind) for kind in self.kinds}
        return self._part("train step, denoiser", mine, contenders, errors, training=True)

    def sampler(self) -> Part:
        """A step of the sampler."""
        _say("compiling our sampler step")
        mine = ours.sampler_step(
            self.case, self._params if self._peer is None else self._peer.params()
        )
        mine.call()
        contenders: dict[str, Callable[[], None]] = {OURS: mine.call}
        errors: dict[str, float] = {}

        def once(peer: TorchPeer, kind: str) -> Any:
            call, out = peer.sampler_step(kind)
            call()
            return call, out["x"]

        for kind, (call, x) in self._each_kind(once):
            contenders[f"torch {kind}"] = call
            errors[f"x (torch {kind})"] = relative_error(
                mine.result["x"], x.permute(0, 2, 3, 1).float().cpu().numpy()
            )
        self._agree(errors)
        return self._part("sampler step, guided pair", mine, contenders, errors, training=False)

    def task(self) -> Part:
        """The train step of stage diffusion, which has no peer."""
        _say("compiling the train step of the whole task")
        mine = ours.task_step(self.case)
        note = "ours alone: the peer has no autoencoder and no style encoder"
        return self._part(
            "train step, whole task", mine, {OURS: mine.call}, {}, training=True, notes=[note]
        )

    def loader(self, wanted: float | None) -> dict[str, Any]:
        """Tiles a second by codec, decoded each time and cached; `wanted`: images a second that the
        step eats."""
        config, found = self.case.config, {}
        count = max(TILES, config.diffusion.style.tiles + 2)
        for codec in CODECS:
            with tempfile.TemporaryDirectory() as folder:
                tiles = make_tiles(Path(folder) / "tiles", config.data.tile, codec, count)
                for name, cache in (("decoded each time", 0), ("all in the cache", 100_000)):
                    speed = loader_speed(config, tiles, self.seconds / 4, cache)
                    found[f"{codec}, {name}"] = {"images": speed.images, "tiles": speed.tiles}
        return {
            "side": config.data.tile,
            "styles": config.diffusion.style.tiles,
            "wanted": wanted,
            "speeds": found,
        }

    def _part(
        self,
        name: str,
        mine: ours.Ready,
        contenders: dict[str, Callable[[], None]],
        errors: dict[str, float],
        *,
        training: bool,
        notes: Sequence[str] = (),
    ) -> Part:
        peak = {each: self._memory(each, call, mine, training) for each, call in contenders.items()}
        times = alternate(contenders, self.seconds)
        rows = [
            row_of(each, times[each], mine.images, mine.flops, *self._ceiling, peak[each])
            for each in contenders
        ]
        return Part(name, rows, mine.flops, errors, list(notes))

    def _memory(
        self, name: str, call: Callable[[], None], mine: ours.Ready, training: bool
    ) -> float | None:
        """What the contender holds and the most that a call takes beside it."""
        if name == OURS and not self.host:
            return float(mine.held + mine.program)
        if not self.host:
            return self._peer.peak(call) if self._peer else None
        call()  # what is made once is there
        risen = memory.growth(call)
        held = mine.held if name == OURS or not self._peer else self._peer.held(training)
        return None if risen is None else held + risen

    def _each_kind(self, do: Callable[[TorchPeer, str], Any]) -> Iterator[tuple[str, Any]]:
        """What `do` gives for each kind; a kind that PyTorch cannot compile here is named and left
        out from then on."""
        for kind in list(self.kinds):
            assert self._peer is not None
            _say(f"running torch {kind} for the first time")
            try:
                yield kind, do(self._peer, kind)
            except Exception as error:
                if kind == "eager":
                    raise
                self.kinds.remove(kind)
                why = (str(error).splitlines() or [type(error).__name__])[0][:200]
                print(f"torch {kind} is left out, it failed: {why}", file=sys.stderr, flush=True)

    def _measure_ceiling(self) -> tuple[float, float]:
        """FLOP/s, and on a CPU FLOP for a second of the processor, of the faster of XLA's and
        PyTorch's product."""
        side, dtype = SIDE.get(self.case.platform, OTHERS), jnp.dtype(self.case.dtype)
        products = {"xla": our_product(dtype, side, self.case.mesh.devices.flat[0])}
        if self._peer:
            products["torch"] = self._peer.product(side)
        devices = 1 if self.host else self.case.mesh.size
        wall, cpu = ceiling(products, side)
        return devices * wall, cpu if self.host else 0.0

    def _agree(self, errors: dict[str, float]) -> None:
        most = TOLERANCE.get((self.case.platform, self.case.dtype), LOW)
        for name, error in errors.items():
            if not error <= most:
                raise UserError(
                    f"Ours and the peer do not compute the same: {name} differs by {error:.1e}, more than {most:.0e}. "
                    "Comparing their speed would say nothing. Please report it, with the command and the versions."
                )


def _say(what: str) -> None:
    print(f"bench: {what} ...", file=sys.stderr, flush=True)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
