"""DINO (Caron et al., ICCV 2021): a student learns to say of any crop of a tile what its teacher
says of another.

    p_t = softmax((g_t(x) - c) / T_t),  p_s = softmax(g_s(x) / T_s)                       (1)
    loss = mean over global crops u and other crops v of  -sum_k p_t(u)_k log p_s(v)_k    (2)
    teacher <- m teacher + (1 - m) student,   m from `momentum` to 1 along a cosine       (3)
    c <- centre_momentum c + (1 - centre_momentum) mean over the global batch of g_t      (4)

g is a Vision Transformer and a projection head. Equation (3) is taken before the teacher is used,
which is DINO's order (after the update) but for the last step; c begins as the mean over the first
batch, where DINO begins at 0. Parameters: `backbone` and `head` of the teacher, `centre`, and those
of the `student`; the first three are state, which the loop replaces. The encoder that others use is
`backbone`, the embedding its class token. To go on from published weights name them twice:
init_from = backbone=SOURCE, student/backbone=SOURCE.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, PRNGKeyArray, PyTree

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.collapse import health, named_collapse
from stedm_jax.models.dino_head import DinoHead
from stedm_jax.models.functional import Functional
from stedm_jax.models.vit import ssl_size, vit_network
from stedm_jax.settings.ssl import Ssl
from stedm_jax.tasks.images import image_rows, to_bytes, to_network
from stedm_jax.tasks.recolor import recolor
from stedm_jax.training.task import STATE

BACKBONE = "backbone"


def cosine(start: float, end: float, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
    """From `start` at step 0 to `end` at step `steps` along half a cosine; `end` from there on."""
    t = jnp.minimum(step.astype(jnp.float32) / max(steps, 1), 1.0)
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * t))


def dino_loss(
    student: Float[Array, "b v k"], teacher: Float[Array, "b u k"], temperature: float
) -> Float[Array, ""]:
    """Equation (2); `teacher` holds distributions of the first u of the v crops, `student` logits
    of all."""
    logp = jax.nn.log_softmax(student / temperature)
    pairs = -jnp.einsum("buk,bvk->buv", teacher, logp)
    u, v = pairs.shape[1:]
    other = 1.0 - jnp.eye(u, v, dtype=jnp.float32)
    return (pairs.mean(0) * other).sum() / other.sum()


class SslTask:
    """Task "ssl"; batches hold global and local crops, uint8 (b, 2, g, g, 3) and (b, n, l, l, 3),
    and in evaluation image, uint8 (b, h, w, 3).

    Args:
      config: config.ssl.
      dtype: of the computation.

    Raises:
      UserError: crops that the patches do not divide.
    """

    name = "ssl"

    def __init__(self, config: Ssl, dtype: DTypeLike):
        self.config, self.size = config, ssl_size(config)
        crops, patch = config.crops, self.size.patch
        if crops.local_size % patch or crops.global_size % patch:
            raise UserError(
                f"config.ssl.crops has global_size={crops.global_size} and local_size="
                f"{crops.local_size}; both must be multiples of the patch of {patch} px."
            )
        head = partial(DinoHead, width=self.size.embedding_dim, **vars(config.head))
        self.network, self.head = vit_network(self.size, dtype), Functional(head, dtype)

    def groups(self, params: PyTree) -> PyTree:
        """Every array of the student by itself: DINO bounds the gradient of each."""

        def label(path: Any, _: Any) -> str:
            return jax.tree_util.keystr(path) if path[0].key == "student" else "teacher"

        return jax.tree_util.tree_map_with_path(label, params)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters: the teacher begins as the student, the center at 0."""
        head = self.head.init(jax.random.fold_in(key, 1))
        student = {BACKBONE: self.network.init(key), "head": head}
        center = jnp.zeros(self.config.head.prototypes, jnp.float32)
        return student | {"student": student, "centre": center}

    def embed(self, params: PyTree, image: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Embeddings of images in [-1, 1], by the teacher; `params` needs its backbone only."""
        return self.network.apply(params[BACKBONE], image)

    def loss(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """Equation (2), the health of the teacher, and the teacher and center that follow."""
        config = self.config
        one, two = jax.random.split(key)
        big = recolor(one, batch["global"], config.augment, (0.0, config.augment.solarise))
        small = recolor(two, batch["local"], config.augment)
        momentum = cosine(config.momentum, 1.0, step, config.train.steps)
        teacher, student = self._teacher(params, momentum), dict(params["student"])
        last = student["head"]["last_layer"]
        still = jnp.where(step < config.freeze_last, jax.lax.stop_gradient(last), last)
        student["head"] = student["head"] | {"last_layer": still}
        z, logits = jax.lax.stop_gradient(self._views(teacher, big))
        mean = logits.mean((0, 1))
        # Untrained logits hardly differ by tile: from a center of 0 all would share a prototype for
        # tens of steps.
        center = jnp.where(step == 0, mean, params["centre"])
        p = self.assign(logits, center, self._temperature(step))
        said = [self._views(student, views)[1] for views in (big, small) if views.shape[1]]
        loss = dino_loss(jnp.concatenate(said, axis=1), p, config.student_temperature)
        state = teacher | {"centre": next_center(center, mean, config.centre_momentum)}
        return loss, self._watch(z, p) | {"teacher_momentum": momentum, STATE: state}

    def assign(
        self,
        logits: Float[Array, "*b k"],
        center: Float[Array, " k"],
        temperature: Float[Array, ""],
    ) -> Float[Array, "*b k"]:
        """The teacher's distributions, equation (1)."""
        center = jax.lax.stop_gradient(center).reshape((1,) * (logits.ndim - 1) + (-1,))
        return jax.nn.softmax((logits - center) / temperature)

    def _teacher(self, params: PyTree, momentum: Float[Array, ""]) -> PyTree:
        """Equation (3)."""
        now = {name: params[name] for name in (BACKBONE, "head")}
        now, student = jax.lax.stop_gradient((now, params["student"]))
        return jax.tree.map(lambda t, s: momentum * t + (1.0 - momentum) * s, now, student)

    def _temperature(self, step: Int32[Array, ""]) -> Float[Array, ""]:
        first, last = self.config.teacher_temperature
        done = step.astype(jnp.float32) / max(self.config.teacher_warmup, 1)
        return first + (last - first) * jnp.minimum(done, 1.0)

    def _views(self, params: PyTree, views: Float[Array, "b v s t 3"]) -> tuple[Array, Array]:
        """Embeddings (b, v, d) and logits (b, v, k); crops of a tile stay beside each other, and so
        on its device."""
        b, v = views.shape[:2]
        z = self.network.apply(params[BACKBONE], views.reshape(b * v, *views.shape[2:]))
        return z.reshape(b, v, -1), self.head.apply(params["head"], z).reshape(b, v, -1)

    def _watch(self, z: Float[Array, "b u d"], p: Float[Array, "b u k"]) -> dict[str, Array]:
        """Equations (1) to (3) of evaluation/collapse.py, over a batch."""
        mean_p, unit = p.mean((0, 1)), _unit(z)
        spread = jnp.sqrt(jnp.maximum(1.0 - jnp.square(unit.mean((0, 1))).sum(), 0.0))
        return {
            "entropy": _entropy(p).mean() / np.log(p.shape[-1]),
            "prototypes": jnp.exp(_entropy(mean_p)),
            "spread": spread,
        }

    def eval_step(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Sums that evaluation.collapse.health reads, of whole tiles and the last temperature."""
        z, weight = self.embed(params, to_network(batch["image"])), batch["weight"]
        last = jnp.float32(self.config.teacher_temperature[1])
        p = self.assign(self.head.apply(params["head"], z), params["centre"], last)
        unit = _unit(z)
        return {
            "count": weight.sum(),
            "entropy": (_entropy(p) * weight).sum(),
            "p": weight @ p,
            "z": weight @ unit,
            "zz": (unit * weight[:, None]).T @ unit,
        }

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """entropy, prototypes, spread and rank; prints a collapse."""
        scores = health(sums)
        for line in named_collapse(scores):
            print(f"ssl: {line}", flush=True)
        return scores

    def visualize(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """The crops of the first tiles, a column each, as the networks get them."""
        pictures = {}
        for name in ("global", "local"):
            if count := batch[name].shape[1]:
                changed = to_bytes(recolor(key, batch[name][:8], self.config.augment))
                pictures[f"{name}_crops"] = image_rows([changed[:, i] for i in range(count)])
        return pictures


def next_center(
    old: Float[Array, " k"], new: Float[Array, " k"], momentum: float
) -> Float[Array, " k"]:
    """Equation (4)."""
    return jax.lax.stop_gradient(momentum * old + (1.0 - momentum) * new)


def _unit(z: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    return z * jax.lax.rsqrt(jnp.square(z).sum(-1, keepdims=True) + 1e-12)


def _entropy(p: Float[Array, "*b k"]) -> Float[Array, "*b"]:
    return -jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-30)), 0.0).sum(-1)
