"""Samplers: from noise to the clean image in few evaluations of the network.

From level t to the next lower level s, the samplers here are one linear step in the state x, the
clean image D_t predicted at t, the one predicted a step before, D_p, and fresh noise z:

    x_s = a x_t + b D_t + c D_p + d z                                             (1)

so a sampler is a table of (a, b, c, d), made in float64 on the host, and one scan runs them all.
`solvers` has those that look back further, correct themselves or evaluate twice, as tables of more
columns for the same scan. Adding one is a function and a line in SAMPLERS.

DDIM (Song et al. 2021, eq. 12 and 16), eta in [0, 1]; eta = 1 is ancestral sampling:

    d = eta (sigma_s / sigma_t) sqrt(1 - alpha_t^2 / alpha_s^2)                   (2)
    a = sqrt(sigma_s^2 - d^2) / sigma_t,   b = alpha_s - a alpha_t,   c = 0       (3)

DPM-Solver++ 2M (Lu et al. 2022, algorithm 2; data prediction), lambda = log(alpha / sigma),
h = lambda_s - lambda_t, h_p the step before, k = h / (2 h_p):

    a = sigma_s / sigma_t,   B = alpha_s (1 - exp(-h)) = alpha_s - a alpha_t      (4)
    b = (1 + k) B,   c = -k B,   d = 0                                            (5)

k = 0 (first order, which is DDIM with eta = 0) at the first step, after a level without signal
(h_p infinite), and at the last one: it ends at alpha = 1, sigma = 0, where (3) and (4) both give
x = D_t. LDM's code, and so STEDM's, ends at level 0 instead (`Sampler.to_level_0`), with a trace of
noise left: sigma is 0.0387 there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int32, Key

from stedm_jax.common.errors import UserError
from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.diffusion.parameterization import to_x0
from stedm_jax.diffusion.schedule import Schedule
from stedm_jax.diffusion.solvers import Levels, Plan, dpmpp_3m, heun, unipc

NO_SIGNAL = -5.0  # lambda of alpha = 0.0067
NOISY_END = 0.1
"""Largest sigma of a last level; at 0.167 components of variance 0.02 keep 63 % of their standard
deviation."""
UNGUIDED = Guidance()
Coefficients = Float64[np.ndarray, "4 n"]
"""a, b, c, d of equation 1, each for every step."""
Denoise = Callable[[Array, Array], Array]
DenoiseBoth = Callable[[Array, Array], tuple[Array, ...]]
Past = tuple[Array, ...]
Carry = tuple[Array, Array, Past]
"""Of a step: the noisy image, as it was begun with, and clean images that were seen before."""


def ddim(
    schedule: Schedule, timesteps: Int32[np.ndarray, " n"], eta: float, end: float = 1.0
) -> Coefficients:
    """Equations 2 and 3; `end` is the alpha_bar that the last step goes to."""
    alpha, sigma, alpha_s, sigma_s = _levels(schedule, timesteps, end)
    noise = eta * sigma_s / sigma * np.sqrt(1.0 - (alpha / alpha_s) ** 2)
    a = np.sqrt(sigma_s**2 - noise**2) / sigma
    return np.stack([a, alpha_s - a * alpha, np.zeros_like(a), noise])


def dpmpp_2m(
    schedule: Schedule, timesteps: Int32[np.ndarray, " n"], eta: float, end: float = 1.0
) -> Coefficients:
    """Equations 4 and 5; eta is 0, and `end` as for ddim."""
    alpha, sigma, alpha_s, sigma_s = _levels(schedule, timesteps, end)
    a = sigma_s / sigma
    b, k = alpha_s - a * alpha, np.zeros_like(a)
    if len(a) > 2:
        h = np.diff(schedule.lambda_table[timesteps])  # of every step but the last
        k[1:-1] = h[1:] / (2.0 * h[:-1])
    return np.stack([a, (1.0 + k) * b, -k * b, np.zeros_like(a)])


def _of_table(table: Callable[..., Coefficients]) -> Callable[..., Plan]:
    """A sampler of equation 1."""

    def plan(
        schedule: Schedule, timesteps: Int32[np.ndarray, " n"], eta: float, end: float
    ) -> Plan:
        return Plan(timesteps, table(schedule, timesteps, eta, end).T)

    return plan


def _solver(solve: Callable[..., Plan], *order: int) -> Callable[..., Plan]:
    """One of `solvers`."""

    def plan(
        schedule: Schedule, timesteps: Int32[np.ndarray, " n"], eta: float, end: float
    ) -> Plan:
        alpha_bar = np.append(schedule.alpha_bar[timesteps], end)
        return solve(Levels(np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)), timesteps, *order)

    return plan


SAMPLERS = {
    "ddim": _of_table(ddim),
    "dpmpp_2m": _of_table(dpmpp_2m),
    "dpmpp_3m": _solver(dpmpp_3m),
    "unipc_2": _solver(unipc, 2),
    "unipc_3": _solver(unipc, 3),
    "heun": _solver(heun),
}


@dataclass(frozen=True)
class Sampler:
    """One of SAMPLERS; eta is the share of fresh noise (ddim only). With to_level_0 the last step
    goes to level 0 of the schedule rather than to the clean image."""

    name: str = "dpmpp_2m"
    eta: float = 0.0
    to_level_0: bool = False

    def plan(self, schedule: Schedule, timesteps: Int32[np.ndarray, " n"]) -> Plan:
        """What is evaluated at which level, and the steps; timesteps strictly decreasing."""
        end = float(schedule.alpha_bar[0]) if self.to_level_0 else 1.0
        return SAMPLERS[self.name](schedule, timesteps, self.eta, end)


def _levels(
    schedule: Schedule, timesteps: Int32[np.ndarray, " n"], end: float
) -> tuple[np.ndarray, ...]:
    """alpha and sigma of each step's level, and of the level that it goes to."""
    alpha_bar = np.append(schedule.alpha_bar[timesteps], end)
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
    return alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]


def timesteps(
    kind: str, steps: int, schedule: Schedule, tail: Sequence[int] = ()
) -> Int32[np.ndarray, " n"]:
    """About `steps` of the noise levels of the schedule, from noisy to clean.

    uniform_lambda: even in lambda, from the last level to level 0 (Lu et al. 2022): the
    least error of dpmpp_2m in few steps, which goes with the largest step in lambda; where two
    would fall on one level, there is one less. linspace: even in t, both ends included. trailing:
    even in t, from the last level but not to level 0 (Lin et al. 2024). uniform_stride: as
    published with LDM, every (T // steps)-th level, counted from 1 so that it may fall short of the
    last one, and generally *more* of them than asked for: "128" of 1000 gives stride 7, 143 steps.

    The last step goes to the clean image at once, which leaves out detail whose variance is below
    that of the noise there. So trailing needs a `tail` where there are few steps: levels that
    follow, as far as they lie below its last one.
    """
    total = schedule.steps
    if not 1 <= steps <= total:
        raise UserError(
            f"Sampling needs between 1 and {total} steps (the length of the noise schedule), not "
            f"{steps}."
        )
    if kind == "uniform_stride":
        t = np.arange(0, total, total // steps)
        t = t + 1 if t[-1] + 1 < total else t
    elif steps == 1:
        t = np.array([total - 1])
    elif kind == "trailing":
        t = np.round(total * np.arange(1, steps + 1) / steps) - 1
    elif kind == "linspace":
        t = np.round(np.linspace(0, total - 1, steps))
    else:
        assert kind == "uniform_lambda", kind
        t = _uniform_lambda(steps, schedule.lambda_table)
    lower = [level for level in sorted(tail) if level < t[0]]
    return np.append(lower, t)[::-1].astype(np.int32)


def check_start(kind: str, schedule: Schedule, timesteps: Int32[np.ndarray, " n"]) -> None:
    """Raises UserError where eps-prediction should start from a level without signal."""
    if kind == "eps" and schedule.alpha_bar[timesteps[0]] == 0.0:
        raise UserError(
            "A network that predicts eps cannot be sampled from a schedule with zero terminal SNR: "
            "at its last level the noise says nothing about the image. Train it to predict v (or "
            "x0), or set zero_terminal_snr to False."
        )


def check_end(schedule: Schedule, timesteps: Int32[np.ndarray, " n"]) -> None:
    """Raises UserError where the last level is so noisy that the finest detail is lost."""
    sigma = float(schedule.sigma[timesteps[-1]])
    if sigma > NOISY_END:
        raise UserError(
            f"Sampling would end at noise level {timesteps[-1]} with sigma {sigma:.3f}, above "
            f"{NOISY_END}, and lose the finest detail of images. Add lower levels, as "
            "synthesis.tail=(40, 10), or choose synthesis.spacing='uniform_lambda', or more "
            "synthesis.steps."
        )


def _uniform_lambda(steps: int, lam: Float64[np.ndarray, " T"]) -> np.ndarray:
    """Rising levels nearest to evenly spaced lambda.

    Below NO_SIGNAL lambda runs away with nothing happening to the image, so one step crosses that.
    """
    extra = [len(lam) - 1] if lam[-1] < NO_SIGNAL else []
    grid = np.linspace(lam[0], max(lam[-1], NO_SIGNAL), steps - len(extra))
    nearest = np.abs(lam[None, :] - grid[:, None]).argmin(axis=1)
    return np.unique(np.concatenate([nearest, np.array(extra, nearest.dtype)]))


def sample(
    denoise: Denoise,
    schedule: Schedule,
    x_T: Float[Array, "b *shape"],
    timesteps: Int32[np.ndarray, " n"],
    sampler: Sampler,
    kind: str,
    *,
    guidance: Guidance = UNGUIDED,
    denoise_both: DenoiseBoth | None = None,
    keys: Key[Array, " b"] | None = None,
) -> Float[Array, "b *shape"]:
    """The clean image, float32, of the noise x_T; traceable, so put it inside jax.jit.

    `denoise(x, t)` is the network's prediction of `kind`, given the style, for x (b, ...) float32
    and t (b,) int32. `denoise_both(x, t)` returns what `Guidance.combine` takes: (given the
    condition, without it, ...). It is best one evaluation of a larger batch; it runs only at the
    steps where guidance is active, and each of the two is compiled once whatever the number of
    steps. `keys`, one for each image, are needed for eta > 0.
    Raises UserError where eps-prediction should start from a level without signal.
    """
    assert np.all(np.diff(timesteps) < 0) and (keys is not None or not sampler.eta)
    check_start(kind, schedule, timesteps)
    plan = sampler.plan(schedule, timesteps)
    predict, active = _guided(denoise, denoise_both, guidance, plan.timesteps, schedule.steps)

    def step(carry: Carry, xs: tuple[Array, ...]) -> tuple[Carry, None]:
        x, (t, on, row, fix, index) = carry[0], xs
        levels: Int[Array, " b"] = jnp.full((x.shape[0],), t, jnp.int32)
        clean = to_x0(schedule, kind, predict(x, levels, on), x, levels)
        fix = None if plan.corrections is None else fix
        x, begun, past = moved(carry, clean, row, fix)
        if sampler.eta and keys is not None:
            x = x + row[-1] * _noise(keys, index, x.shape[1:])
        return (x, begun, past), None

    rows = plan.steps.astype(np.float32)
    fixes = rows if plan.corrections is None else plan.corrections.astype(np.float32)
    index = np.arange(len(rows), dtype=np.int32)
    xs = jax.tree.map(jnp.asarray, (plan.timesteps, active, rows, fixes, index))
    (x, *_), _ = jax.lax.scan(step, begin(plan, x_T.astype(jnp.float32)), xs)
    return x


def begin(plan: Plan, x_T: Float[Array, "b *shape"]) -> Carry:
    """What the first step of a plan starts from."""
    nothing = jnp.zeros_like(x_T)
    return x_T, nothing if plan.corrections is None else x_T, (nothing,) * plan.history


def moved(carry: Carry, clean: Array, row: Array, fix: Array | None) -> Carry:
    """Equations 1 and 2 of solvers.py, without fresh noise.

    Args:
      carry: where the step starts.
      clean: the image that the network sees there.
      row, fix: of the steps and corrections of the plan; None: it has none.
    """
    x, begun, past = carry
    if fix is not None:
        x = _weighted(fix[0] * x + fix[1] * begun, fix[2:], (clean, *past))
        begun = x
    x = _weighted(row[0] * x, row[1:], (clean, *past))
    return x, begun, (clean, *past)[: len(past)]


def _weighted(x: Array, weights: Array, images: Past) -> Array:
    for index, image in enumerate(images):
        x = x + weights[index] * image
    return x


def _noise(keys: Key[Array, " b"], index: Array, shape: tuple[int, ...]) -> Array:
    """That of a step, a function of each image's key alone."""

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32)

    return jax.vmap(draw)(keys)


def _guided(
    denoise: Denoise,
    denoise_both: DenoiseBoth | None,
    guidance: Guidance,
    timesteps: Int32[np.ndarray, " n"],
    steps: int,
) -> tuple[Callable[[Array, Array, Array], Array], np.ndarray]:
    """(predict(x, t, on), on for each timestep): one or two branches, whichever are needed."""
    active = guidance.active(timesteps, steps)

    def plain(x: Array, t: Array) -> Array:
        return denoise(x, t).astype(jnp.float32)

    if not active.any():
        return (lambda x, t, on: plain(x, t)), active
    assert denoise_both is not None

    def guided(x: Array, t: Array) -> Array:
        return guidance.combine(*denoise_both(x, t))

    if active.all():
        return (lambda x, t, on: guided(x, t)), active
    # A real branch: XLA runs only one side, so a step outside the interval costs one evaluation.
    return (lambda x, t, on: jax.lax.cond(on, guided, plain, x, t)), active
