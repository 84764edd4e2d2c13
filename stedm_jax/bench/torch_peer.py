"""The peer in PyTorch with our weights: a train step and a sampler step that compute what ours do.

As one would write them for speed: channels_last, autocast to bfloat16 where ours computes in it,
  fused attention, fused
AdamW, a moving average by one fused call over all tensors; eager, and with torch.compile.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from stedm_jax.bench.case import Case
from stedm_jax.bench.ours import LEVEL
from stedm_jax.common.errors import UserError
from stedm_jax.convert.table import from_torch, to_torch
from stedm_jax.diffusion.samplers import Sampler
from stedm_jax.diffusion.schedule import make_schedule

PEERS = ("eager", "compile")
ORDERS = ("channels_last", "contiguous")


def why_not(case: Case) -> str:
    """Why there is no peer to run against; "" where there is one."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install torch brings it)"
    torch: Any = importlib.import_module("torch")
    if case.platform not in ("cpu", "gpu"):
        return f"there is no torch for a {case.platform}"
    if case.platform == "gpu" and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU (its build has none?)"
    if case.config.diffusion.unet.attention != "plain" or case.config.diffusion.unet.dropout:
        return "the peer has plain attention and no dropout, and the config asks for something else"
    return ""


class TorchPeer:
    """The network with its optimiser state, shared by the eager and the compiled contender.

    Args:
      case: what is measured.
      params: ours, on the host.
      order: of ORDERS, how images and kernels lie in memory.
      cudnn_benchmark: cuDNN tries its algorithms and keeps the fastest.
    """

    def __init__(self, case: Case, params: Any, order: str, cudnn_benchmark: bool):
        if order not in ORDERS:
            raise UserError(f"--memory_order={order} is unknown; give one of {', '.join(ORDERS)}.")
        self.torch: Any = importlib.import_module("torch")
        self.case, self.order = (
            case,
            getattr(self.torch, f"{order}_format" if order == "contiguous" else order),
        )
        self.device = "cuda" if case.platform == "gpu" else "cpu"
        self.torch.backends.cudnn.benchmark = cudnn_benchmark
        self.torch.set_float32_matmul_precision(
            "high"
        )  # TF32 on a GPU, as ours there; nothing on a CPU
        unet = case.config.diffusion.unet
        network = importlib.import_module("stedm_jax.bench.torch_unet").UNet(
            in_channels=case.channels + case.config.diffusion.layout_channels,
            out_channels=case.channels,
            **{
                name: unet[name]
                for name in ("base", "multipliers", "res_blocks", "attention_at", "heads")
            },
            style_dim=case.style_dim,
            style_path=unet.style_path,
        )
        weights = {name: self.torch.from_numpy(array) for name, array in to_torch(params).items()}
        network.load_state_dict(weights)
        self.network = network.to(self.device, memory_format=self.order)
        self._compiled: Any = None

    def params(self) -> Any:
        """Our parameters of the present state."""
        state = {
            name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()
        }
        return from_torch(state, self.case.unet.abstract)

    def runner(self, kind: str) -> Any:
        """The network as a contender of PEERS calls it."""
        if kind == "eager":
            return self.network
        if self._compiled is None:
            self._compiled = self.torch.compile(self.network)
        return self._compiled

    def inputs(self) -> dict[str, Any]:
        """Those of the case on the device; images as (b, c, h, w)."""
        out = {}
        for name, array in self.case.inputs(self.case.batch).items():
            tensor = self.torch.from_numpy(np.moveaxis(array, -1, 1) if array.ndim == 4 else array)
            out[name] = (
                tensor.to(self.device, memory_format=self.order)
                if array.ndim == 4
                else tensor.to(self.device)
            )
        return out

    def held(self, training: bool) -> int:
        """Bytes of the parameters and, in training, of gradients, optimiser state and moving
        average."""
        return (5 if training else 1) * sum(
            p.numel() * p.element_size() for p in self.network.parameters()
        )

    def loss(self, kind: str, inputs: Mapping[str, Any]) -> Any:
        """As UNetTask.loss."""
        with self._autocast():
            predicted = self.runner(kind)(inputs["x"], inputs["t"], inputs.get("style"))
        apart = predicted - inputs["target"]
        return (apart.abs() if self.case.config.diffusion.loss == "l1" else apart.square()).mean()

    def check_step(self, kind: str) -> dict[str, float]:
        """Loss and norm of the gradient at the present parameters, which stay as they are."""
        loss = self.loss(kind, self.inputs())
        loss.backward()
        grads = [p.grad for p in self.network.parameters()]
        norm = self.torch.linalg.vector_norm(self.torch.stack(self.torch._foreach_norm(grads)))
        self.network.zero_grad(set_to_none=True)
        return {"loss": loss.item(), "grad_norm": norm.item()}

    def prepare_training(self) -> None:
        """Makes optimiser and moving average, once for all contenders."""
        settings = self.case.config.diffusion.train.optimizer
        decay = [p for p in self.network.parameters() if p.ndim >= 2]
        others = [p for p in self.network.parameters() if p.ndim < 2]
        groups = [
            {"params": decay, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        betas = (settings.b1, settings.b2)
        self._optimizer = self.torch.optim.AdamW(
            groups, lr=settings.lr, betas=betas, eps=1e-8, fused=True
        )
        self._average = [p.detach().clone() for p in self.network.parameters()]

    def train_step(self, kind: str) -> Callable[[], None]:
        """A call that makes one step more."""
        inputs, params = self.inputs(), list(self.network.parameters())
        decay = self.case.config.diffusion.train.ema.decay or 0.9999

        def call() -> None:
            self.loss(kind, inputs).backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            with self.torch.no_grad():
                self.torch._foreach_lerp_(self._average, params, 1.0 - decay)
            self._wait()

        return call

    def sampler_step(self, kind: str) -> tuple[Callable[[], None], dict[str, Any]]:
        """A call that makes the sampler step, and the dict that it leaves x (b, h, w, c) in."""
        config, torch = self.case.config.synthesis, self.torch
        schedule = make_schedule(**self.case.config.diffusion.schedule)
        level = int(LEVEL * schedule.steps)
        a, b = (
            Sampler(config.sampler, config.eta)
            .table(schedule, np.array([level], np.int32))[0, :2]
            .tolist()
        )
        alpha, sigma = float(schedule.alpha[level]), float(schedule.sigma[level])
        kind_of, scale, rescale = (
            self.case.config.diffusion.prediction,
            config.guidance.scale,
            config.guidance.rescale,
        )
        inputs, out = self.inputs(), {}
        noise, style = inputs["x"][:, : self.case.channels], inputs.get("style")
        t = torch.full(
            (self.case.batch * (1 if scale == 1.0 else 2),), float(level), device=self.device
        )

        def predict() -> Any:
            if scale == 1.0:
                return self.runner(kind)(inputs["x"], t, style)
            pair = None if style is None else torch.cat([style, torch.zeros_like(style)])
            cond, uncond = self.runner(kind)(torch.cat([inputs["x"], inputs["x"]]), t, pair).chunk(
                2
            )
            guided = uncond + scale * (cond - uncond)
            ratio = cond.std((1, 2, 3), correction=0, keepdim=True) / guided.std(
                (1, 2, 3), correction=0, keepdim=True
            )
            return guided * (rescale * ratio + 1.0 - rescale)

        def call() -> None:
            with torch.inference_mode(), self._autocast():
                given = predict()
            clean = {
                "eps": lambda: (noise - sigma * given) / alpha,
                "v": lambda: alpha * noise - sigma * given,
                "x0": lambda: given,
            }[kind_of]()
            out["x"] = a * noise + b * clean
            self._wait()

        return call, out

    def product(self, side: int) -> Callable[[], None]:
        """A call that multiplies two square matrices in the dtype of the case."""
        kind = getattr(self.torch, self.case.dtype)
        x, y = (
            self.torch.full((side, side), 0.01, dtype=kind, device=self.device) for _ in range(2)
        )

        def call() -> None:
            self.torch.mm(x, y)
            self._wait()

        return call

    def peak(self, call: Callable[[], None]) -> float:
        """Most bytes of the GPU that tensors of PyTorch hold during a call."""
        self.torch.cuda.reset_peak_memory_stats()
        call()
        return float(self.torch.cuda.max_memory_allocated())

    def _autocast(self) -> Any:
        low = self.case.dtype == "bfloat16"
        return self.torch.autocast(self.device, dtype=self.torch.bfloat16, enabled=low)

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def relative_error(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest absolute value of theirs."""
    ours, theirs = np.asarray(jax.device_get(ours), np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
