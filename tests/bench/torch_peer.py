"""The peer in PyTorch with our weights: a train step and a sampler step that compute what ours do.

`python -m tests.bench.compare` runs it in turns with ours. It is written as one would write it for
speed: channels_last, autocast to bfloat16 where
ours computes in it, fused attention, fused AdamW, a moving average by one fused call over all
tensors; eager, and with torch.compile.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from stedm_jax.bench.case import Case
from stedm_jax.bench.ours import LEVEL
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.diffusion.samplers import Sampler


def why_not(case: Case) -> str:
    """Why there is no peer to run against; "" where there is one."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install torch brings it)"
    torch: Any = importlib.import_module("torch")
    if case.platform not in ("cpu", "gpu"):
        return f"there is no torch for a {case.platform}"
    if case.platform == "gpu" and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU (its build has none?)"
    if case.diffusion.unet.attention != "plain" or case.diffusion.unet.dropout:
        return "the peer has plain attention and no dropout, and the config asks for something else"
    return ""


class TorchPeer:
    """The network with its optimizer state, shared by the eager and the compiled contender.

    Args:
      case: what is measured.
      params: ours, on the host.
      order: channels_last or contiguous, of images and kernels in memory.
      cudnn_benchmark: cuDNN tries its algorithms and keeps the fastest.
    """

    def __init__(self, case: Case, params: Any, order: str, cudnn_benchmark: bool):
        self.torch: Any = importlib.import_module("torch")
        self.case = case
        self.order = getattr(self.torch, "contiguous_format" if order == "contiguous" else order)
        self.device = "cuda" if case.platform == "gpu" else "cpu"
        self.torch.backends.cudnn.benchmark = cudnn_benchmark
        # TF32 on a GPU, as ours there; nothing on a CPU.
        self.torch.set_float32_matmul_precision("high")
        unet, channels = case.diffusion.unet, case.task.channels
        network = importlib.import_module("tests.bench.torch_unet").UNet(
            in_channels=channels + case.diffusion.layout_channels,
            out_channels=channels,
            base=unet.base,
            multipliers=unet.multipliers,
            res_blocks=unet.res_blocks,
            attention_at=unet.attention_at,
            heads=unet.heads,
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
        """The network to call, eager or compiled."""
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
            options = {"memory_format": self.order} if array.ndim == 4 else {}
            out[name] = tensor.to(self.device, **options)
        return out

    def held(self, training: bool) -> int:
        """Bytes of the parameters and, in training, of gradients, optimizer state and moving
        average."""
        size = sum(p.numel() * p.element_size() for p in self.network.parameters())
        return (5 if training else 1) * size

    def loss(self, kind: str, inputs: Mapping[str, Any]) -> Any:
        """As UNetTask.loss."""
        with self._autocast():
            predicted = self.runner(kind)(inputs["x"], inputs["t"], inputs.get("style"))
        apart = predicted - inputs["target"]
        return (apart.abs() if self.case.diffusion.loss == "l1" else apart.square()).mean()

    def check_step(self, kind: str) -> dict[str, float]:
        """Loss and norm of the gradient at the present parameters, which stay as they are."""
        loss = self.loss(kind, self.inputs())
        loss.backward()
        grads = [p.grad for p in self.network.parameters()]
        norm = self.torch.linalg.vector_norm(self.torch.stack(self.torch._foreach_norm(grads)))
        self.network.zero_grad(set_to_none=True)
        return {"loss": loss.item(), "grad_norm": norm.item()}

    def train_step(self, kind: str) -> tuple[Callable[[], None], dict[str, Any]]:
        """A call that makes one step more, and what `check_step` gives now."""
        checked, inputs = self.check_step(kind), self.inputs()
        params, optimizer = list(self.network.parameters()), self._training[0]
        decay = self.case.diffusion.train.ema.decay or 0.9999

        def call() -> None:
            self.loss(kind, inputs).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with self.torch.no_grad():
                self.torch._foreach_lerp_(self._training[1], params, 1.0 - decay)
            self._wait()

        return call, checked

    @cached_property
    def _training(self) -> tuple[Any, list[Any]]:
        """The optimizer and the moving average, which all kinds share."""
        settings = self.case.diffusion.train.optimizer
        params = list(self.network.parameters())
        groups = [
            {
                "params": [p for p in params if p.ndim >= 2],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (settings.b1, settings.b2)
        optimizer = self.torch.optim.AdamW(
            groups, lr=settings.lr, betas=betas, eps=1e-8, fused=True
        )
        return optimizer, [p.detach().clone() for p in params]

    def sampler_step(self, kind: str) -> tuple[Callable[[], None], dict[str, Any]]:
        """A call that makes the sampler step, and the x (b, h, w, c) that it gives."""
        synthesis, schedule, torch = self.case.synthesis, self.case.task.schedule, self.torch
        level = int(LEVEL * schedule.steps)
        sampler = Sampler(synthesis.sampler, synthesis.eta)
        a, b = sampler.plan(schedule, np.array([level], np.int32)).steps[0, :2].tolist()
        alpha, sigma = float(schedule.alpha[level]), float(schedule.sigma[level])
        prediction, guidance = self.case.diffusion.prediction, synthesis.guidance
        scale, rescale = guidance.scale, guidance.rescale
        inputs, out = self.inputs(), {}
        noise, style = inputs["x"][:, : self.case.task.channels], inputs.get("style")
        t = torch.full(
            (self.case.batch * (1 if scale == 1.0 else 2),), float(level), device=self.device
        )

        def predict() -> Any:
            if scale == 1.0:
                return self.runner(kind)(inputs["x"], t, style)
            pair = None if style is None else torch.cat([style, torch.zeros_like(style)])
            both = self.runner(kind)(torch.cat([inputs["x"], inputs["x"]]), t, pair)
            cond, uncond = both.chunk(2)
            guided = uncond + scale * (cond - uncond)
            whole = {"dim": (1, 2, 3), "correction": 0, "keepdim": True}
            ratio = cond.std(**whole) / guided.std(**whole)
            return guided * (rescale * ratio + 1.0 - rescale)

        def call() -> None:
            with torch.inference_mode(), self._autocast():
                given = predict()
            clean = {
                "eps": lambda: (noise - sigma * given) / alpha,
                "v": lambda: alpha * noise - sigma * given,
                "x0": lambda: given,
            }[prediction]()
            out["x"] = a * noise + b * clean
            self._wait()

        call()
        x = out["x"].permute(0, 2, 3, 1).float().cpu().numpy()
        return call, {"x": x}

    def product(self, side: int) -> Callable[[], None]:
        """A call that multiplies two square matrices in the dtype of the case."""
        kind = getattr(self.torch, self.case.settings.dtype)
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
        low = self.case.settings.dtype == "bfloat16"
        return self.torch.autocast(self.device, dtype=self.torch.bfloat16, enabled=low)

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()
