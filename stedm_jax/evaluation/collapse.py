"""Whether a self-supervised encoder has collapsed, from what it makes of many tiles.

    entropy     = mean_i H(p_i) / log K                    1: every tile gets the uniform
    distribution       (1) prototypes  = exp H(mean_i p_i)                        1: all tiles get
    the same prototype               (2) spread      = sqrt(sum_j var_i z_ij) = sqrt(1 - |mean_i
    z_i|^2)          of unit vectors z; 0: all equal (3) rank        = exp H(s / sum s),  s^2 the
    eigenvalues of the covariance of z                              (4)

p are the teacher's distributions over K prototypes, centred and sharpened; z its embeddings,
L2-normalised. (3) is the standard deviation of a dimension over 1 / sqrt(d), the value of vectors
that point everywhere. (4) is the effective rank of Roy and Vetterli (2007), close to RankMe
(Garrido et al., 2023), of centred embeddings.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

UNIFORM = 0.99
FEW_PROTOTYPES = 1.5
NO_SPREAD = 0.02
FEW_DIMENSIONS = 1.5


def health(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Equations (1) to (4) from sums over tiles: count, entropy (nats), p (K,), z (d,), zz (d,
    d)."""
    n = max(float(sums["count"]), 1.0)
    p, mean = np.asarray(sums["p"], np.float64) / n, np.asarray(sums["z"], np.float64) / n
    covariance = np.asarray(sums["zz"], np.float64) / n - np.outer(mean, mean)
    sizes = np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0.0, None))
    return {
        "entropy": float(sums["entropy"]) / n / np.log(len(p)),
        "prototypes": float(np.exp(_entropy(p))),
        "spread": float(np.sqrt(max(np.trace(covariance), 0.0))),
        "rank": float(np.exp(_entropy(sizes / sizes.sum()))) if sizes.sum() > 1e-9 else 1.0,
    }


def named_collapse(scores: Mapping[str, float]) -> list[str]:
    """What is wrong, in words with what to change; nothing where the encoder is sound. Scores as of
    `health`."""
    found = []
    if not all(np.isfinite(scores[name]) for name in ("entropy", "prototypes", "spread", "rank")):
        found.append("the encoder's output is not finite: lower train.optimizer.lr")
    if scores["entropy"] > UNIFORM:
        found.append(
            f"the encoder has collapsed to the uniform distribution (entropy {scores['entropy']:.3f} of log K): lower "
            "ssl.teacher_temperature, or ssl.centre_momentum"
        )
    if scores["prototypes"] < FEW_PROTOTYPES:
        found.append(
            f"the encoder has collapsed to one prototype for all tiles ({scores['prototypes']:.2f} in use): raise "
            "ssl.teacher_temperature, lower train.optimizer.lr, or freeze the prototypes longer (ssl.freeze_last)"
        )
    if scores["spread"] < NO_SPREAD:
        found.append(
            f"the encoder has collapsed to one embedding for all tiles (spread {scores['spread']:.4f} of 1): lower "
            "train.optimizer.lr, raise ssl.momentum, or train longer"
        )
    elif scores["rank"] < FEW_DIMENSIONS:
        found.append(
            f"the encoder has collapsed to one dimension (effective rank {scores['rank']:.2f}): use more "
            "ssl.head.prototypes, a larger batch or weaker ssl.augment"
        )
    return found


def _entropy(p: Float[np.ndarray, " k"]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
