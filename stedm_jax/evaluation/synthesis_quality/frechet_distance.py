"""Frechet distance of the features of a set to those of held-out patients (FID in those of
Inception)."""

import numpy as np
from jaxtyping import Float

from stedm_jax.evaluation.synthesis_quality.metric import Judgment, Metric, Quality


class FrechetDistance(Metric):
    """Of the set, beside as many real tiles of seen patients, both to held-out ones.

    It falls as the number of images grows, so both sides have the same number.
    """

    labels = {
        "frechet": "Frechet distance to held-out patients",
        "frechet_real": "the same of real tiles of seen patients",
    }

    def result(self, judgment: Judgment) -> Quality:
        """Both distances."""
        features = judgment.compared
        made, seen = features.equally_many()
        held_out = features.held_out.values
        found = {"frechet": frechet(made, held_out), "frechet_real": frechet(seen, held_out)}
        return Quality(found | {"compared_images": len(made), "held_out_tiles": len(held_out)})


def frechet(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), the squared Wasserstein distance of two
    Gaussians (Dowson and Landau 1982; Heusel et al. 2017), with unbiased covariances.

    With S_x = A^T A and S_y = B^T B the trace of the root is the sum of the singular values of
    A B^T, which needs no root of a matrix.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = _root(x), _root(y)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    between = np.square(x.mean(0) - y.mean(0)).sum()
    return float(max(between + np.square(a).sum() + np.square(b).sum() - 2.0 * cross, 0.0))


def _root(x: np.ndarray) -> np.ndarray:
    """A with A^T A the covariance."""
    centered = (x - x.mean(0)) / np.sqrt(max(len(x) - 1, 1))
    return np.asarray(np.linalg.qr(centered, mode="r"))
