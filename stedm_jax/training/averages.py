"""Moving averages of the parameters.

An exponential one, with a warm-up:

(1)  ema(t) = d(t) ema(t-1) + (1 - d(t)) theta(t),   d(t) = min(decay, (1 + t) / (10 + t)),
     t = 1, 2, ... updates

And tracks of a power-function profile (Karras et al. 2024, "EDM2", section 3 and appendix C):

(2)  theta_g(t) = b(t) theta_g(t-1) + (1 - b(t)) theta(t),   b(t) = (1 - 1/t)^(g+1)
(3)  so the weight of theta(t) in theta_g(T) is (t^(g+1) - (t-1)^(g+1)) / T^(g+1),
     the integral over (t-1, t] of the profile p_{T,g}(s) = (g+1) s^g / T^(g+1) on [0, T]
(4)  its relative width is s_rel = sqrt(g+1) / ((g+2) sqrt(g+3)),   1/sqrt(12) at g = 0, where all
     weigh the same
(5)  <p_{a,g}, p_{b,h}> = (g+1) (h+1) / (g+h+1) * min(a, b)^(g+h+1) / (a^(g+1) b^(h+1))

The width is one of the whole training so far, whatever its length. Averages of other widths are
combined after the training from snapshots of two of them: the least-squares fit of their profiles,
from (5).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from stedm_jax.common.errors import UserError
from stedm_jax.settings.training import WIDEST


def ema_decay(decay: float, updates: Int[Array, ""]) -> Float[Array, ""]:
    """d(t) of equation (1)."""
    n = updates.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1.0 + n) / (10.0 + n))


def update_ema(ema: Any, params: Any, decay: float, updates: Int[Array, ""]) -> Any:
    """Equation (1) for a tree; an empty tree (none is kept) stays empty."""
    if not jax.tree.leaves(ema):
        return ema
    d = ema_decay(decay, updates)
    return jax.tree.map(
        lambda e, p: d.astype(e.dtype) * e + (1.0 - d).astype(e.dtype) * p.astype(e.dtype),
        ema,
        params,
    )


def update_tracks(
    tracks: Mapping[str, Any], params: Any, updates: Int[Array, ""]
) -> dict[str, Any]:
    """Equation (2) for the tracks by name."""
    out = {}
    for name, track in tracks.items():
        share = fresh_share(exponent(float(name)), updates)
        out[name] = jax.tree.map(
            lambda e, p, s=share: e + s.astype(e.dtype) * (p.astype(e.dtype) - e), track, params
        )
    return out


def fresh_share(g: float, updates: Int[Array, ""]) -> Float[Array, ""]:
    """1 - b(t) of equation (2), exact where b is next to 1; 1 for the first update."""
    return -jnp.expm1((g + 1.0) * jnp.log1p(-1.0 / updates.astype(jnp.float32)))


def exponent(width: float) -> float:
    """g of a relative width, by equation (4).

    Raises:
      UserError: there is none of 0 or more.
    """
    if not 0 < width < WIDEST:
        raise UserError(
            f"{width:g} is no relative width of a moving average; it lies between 0 (the last "
            f"weights) and {WIDEST:.4f} (the mean of all steps). 0.05 and 0.10 are usual."
        )
    # (4) squared is a cubic of g; the width falls as g grows from 0, so that its largest root is
    # the one.
    inverse = width**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def inner(
    a: Float64[np.ndarray, "*#n"],
    g: Float64[np.ndarray, "*#n"],
    b: Float64[np.ndarray, "*#n"],
    h: Float64[np.ndarray, "*#n"],
) -> Float64[np.ndarray, "*n"]:
    """Equation (5), without powers of large numbers: times a, b and exponents g, h."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    power = np.where(a < b, h, g)  # of the one that ends later
    return (g + 1) * (h + 1) / (g + h + 1) * (low / high) ** power / high


def coefficients(
    times: Sequence[int], exponents: Sequence[float], time: int, exponent: float
) -> tuple[Float64[np.ndarray, " n"], float]:
    """The combination of profiles that is nearest to another one.

    Args:
      times, exponents: T and g of each profile.
      time, exponent: of the wanted one.

    Returns:
      The coefficients, and the distance that is left as a share of the norm of the wanted profile.
      The coefficients add up to 1, as the weights of a mean have to: with this constraint (one more
      row, by Lagrange) what all steps have in common comes out exactly, and only what the training
      changed is approximated.
    """
    t, g = np.asarray(times, np.float64), np.asarray(exponents, np.float64)
    wanted_t, wanted_g = np.full(1, time, np.float64), np.full(1, exponent, np.float64)
    # Scaled to profiles of norm 1; they are of very different sizes otherwise.
    norms = np.sqrt(inner(t, g, t, g))
    own = np.sqrt(inner(wanted_t, wanted_g, wanted_t, wanted_g))[0]
    gram = inner(t[:, None], g[:, None], t[None, :], g[None, :]) / norms[:, None] / norms[None, :]
    right = inner(t, g, wanted_t, wanted_g) / norms / own
    ones = own / norms
    system = np.block([[gram, ones[:, None]], [ones[None, :], np.zeros((1, 1))]])
    solution = np.linalg.lstsq(system, np.append(right, 1.0), rcond=1e-13)[0][:-1]
    left = solution @ gram @ solution - 2 * solution @ right + 1.0
    return solution * own / norms, float(np.sqrt(max(left, 0.0)))
