"""Whether a self-supervised encoder has collapsed, from what it makes of many tiles.

    entropy     = mean_i H(p_i) / log K      1: every tile gets the uniform distribution         (1)
    prototypes  = exp H(mean_i p_i)          1: all tiles get the same prototype                 (2)
    spread      = sqrt(sum_j var_i z_ij)     0: all tiles get the same embedding                 (3)
    rank        = exp H(s / sum s)           s^2 the eigenvalues of the covariance of z          (4)

p are the teacher's distributions over K prototypes, centered and sharpened; z are its embeddings,
L2-normalized, so (3) is also sqrt(1 - |mean_i z_i|^2). (3) is the standard deviation of a dimension
over 1 / sqrt(d), the value of vectors that point everywhere. (4) is the effective rank of Roy and
Vetterli (2007), close to RankMe (Garrido et al., 2023), of centered embeddings.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

UNIFORM = 0.99
FEW_PROTOTYPES = 1.5
NO_SPREAD = 0.02
FEW_DIMENSIONS = 1.5


def health(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Equations (1) to (4).

    Args:
      sums: over tiles, of count, entropy (in nats), p (K,), z (d,) and zz (d, d).
    """
    n = max(float(sums["count"]), 1.0)
    p, mean, square = (np.asarray(sums[name], np.float64) / n for name in ("p", "z", "zz"))
    covariance = square - np.outer(mean, mean)
    sizes = np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0.0, None))
    return {
        "entropy": float(sums["entropy"]) / n / np.log(len(p)),
        "prototypes": float(np.exp(_entropy(p))),
        "spread": float(np.sqrt(max(np.trace(covariance), 0.0))),
        "rank": float(np.exp(_entropy(sizes / sizes.sum()))) if sizes.sum() > 1e-9 else 1.0,
    }


def named_collapse(scores: Mapping[str, float]) -> list[str]:
    """What is wrong and what to change; nothing if the encoder is sound.

    Args:
      scores: those of `health`.
    """
    entropy, prototypes, spread, rank = values = [
        scores[name] for name in ("entropy", "prototypes", "spread", "rank")
    ]
    found = []
    if not np.isfinite(values).all():
        found.append("the encoder's output is not finite: lower train.optimizer.lr")
    if entropy > UNIFORM:
        found.append(
            f"the encoder has collapsed to the uniform distribution (entropy {entropy:.3f} of "
            "log K): lower ssl.teacher_temperature, or ssl.centre_momentum"
        )
    if prototypes < FEW_PROTOTYPES:
        found.append(
            f"the encoder has collapsed to one prototype for all tiles ({prototypes:.2f} in use): "
            "raise ssl.teacher_temperature, lower train.optimizer.lr, or freeze the prototypes "
            "longer (ssl.freeze_last)"
        )
    if spread < NO_SPREAD:
        found.append(
            f"the encoder has collapsed to one embedding for all tiles (spread {spread:.4f} of 1): "
            "lower train.optimizer.lr, raise ssl.momentum, or train longer"
        )
    elif rank < FEW_DIMENSIONS:
        found.append(
            f"the encoder has collapsed to one dimension (effective rank {rank:.2f}): use more "
            "ssl.head.prototypes, a larger batch or weaker ssl.augment"
        )
    return found


def _entropy(p: Float[np.ndarray, " k"]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
