"""One segmenter of several: the mean over views of a patch (test-time augmentation) and over the
seeds of an arm, and what their disagreement says.

With the probabilities p_k of member k and their mean p over m members, and H the entropy in nats
over K classes,

    (1)  entropy       H(p) / ln K
    (2)  disagreement  (H(p) - (1/m) sum_k H(p_k)) / ln K

are between 0 and 1. (2) is the mutual information of class and member (Depeweg et al., ICML 2018):
doubt that more training could remove, in place of doubt about what the pixels show.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from stedm_jax.inference.trained_segmenter import Segmenter

VIEWS = ("none", "flips", "all")
"""A patch as it is; with its mirror images, 4 views; with quarter turns too, 8."""
LEAST = 1e-7
"""Of a probability in a logarithm."""
_TURNS = {"none": (0,), "flips": (0, 2), "all": (0, 1, 2, 3)}


def combined(members: Sequence[Segmenter], views: str = "none") -> Segmenter:
    """A segmenter whose maps are the mean over members and views, and as the last one the mean of
    their entropies; a single member with one view is returned as it is.

    Args:
      members: of one arm.
      views: of VIEWS.
    """
    first = members[0]
    flips = (False,) if views == "none" else (False, True)
    turns = [(turn, flip) for turn in _TURNS[views] for flip in flips]
    if len(members) * len(turns) == 1:
        return first
    classes = len(first.names)

    def predict(patches: UInt8[np.ndarray, "b t t 3"]) -> Float[Array, "b t t m"]:
        total = jnp.zeros(())
        for member in members:
            for turn, flip in turns:
                maps = member.predict(_turned(patches, turn, flip))
                total = _added(total, maps, turn, flip, classes)
        return total / (len(members) * len(turns))

    identity = hashlib.sha256("".join([views, *(each.identity for each in members)]).encode())
    return replace(first, predict=predict, identity=identity.hexdigest(), combined=True)


def _turned(
    patches: UInt8[np.ndarray, "b t t 3"], turn: int, flip: bool
) -> UInt8[np.ndarray, "b t t 3"]:
    turned = np.rot90(patches, turn, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if flip else turned)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _added(
    total: Float[Array, "..."], maps: Float[Array, "b t t m"], turn: int, flip: bool, classes: int
) -> Float[Array, "b t t n"]:
    """A sum, and to it the maps of a view, brought back, with their entropy."""
    straight = jnp.rot90(maps[:, :, ::-1] if flip else maps, -turn, axes=(1, 2))
    share = straight[..., :classes]
    own = -jnp.sum(share * jnp.log(jnp.maximum(share, LEAST)), axis=-1, keepdims=True)
    return total + jnp.concatenate([straight, own], axis=-1)


def uncertainty(
    maps: Float32[np.ndarray, "h w m"], classes: int, several: bool
) -> list[Float32[np.ndarray, "h w"]]:
    """Equation (1) and, of several predictions, (2), of averaged maps."""
    share = np.log(classes)
    mean = maps[..., :classes]
    whole = -np.sum(mean * np.log(np.maximum(mean, LEAST)), axis=-1) / share
    found = [whole]
    if several:
        found.append(np.maximum(whole - maps[..., -1] / share, 0))
    return [np.clip(each, 0, 1).astype(np.float32) for each in found]
