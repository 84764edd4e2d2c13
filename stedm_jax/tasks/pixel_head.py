"""PathSegDiff: a small head on the features of a guided denoiser (Danisetty et al., DGM4MICCAI
2025).

Loss, scores and pictures are those of any segmenter (segmentation.py). The denoiser is frozen, as
in the paper, or trained along (`head.tune`); first stage and guide never are.
"""

from typing import Any

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stedm_jax.models.batch_norm import running_stats
from stedm_jax.models.functional import Functional
from stedm_jax.models.named_networks import HEADS, network
from stedm_jax.settings.segmentation import Segmentation
from stedm_jax.tasks.features import Features
from stedm_jax.tasks.segmentation import SegmentationTask, Shown

HEAD, DENOISER = "head", "denoiser"


class PixelHeadTask(SegmentationTask):
    """Task "segmentation" with parameters head and, where it is tuned, those of the denoiser beside
    it (unet, guide); frozen: first, guide (the encoder) and denoiser.

    Args:
      config, shown, patients, dtype: as SegmentationTask.
      features: of the tiles.
    """

    def __init__(
        self,
        config: Segmentation,
        shown: Shown,
        patients: int,
        dtype: DTypeLike,
        features: Features,
    ):
        self.features, self.tunes = features, config.head.tune and features.denoises
        super().__init__(config, shown, patients, dtype)

    def build(self, dtype: DTypeLike) -> Functional:
        """The head."""
        head, classes = self.config.head, len(self.colors)
        keys: dict[str, Any] = {}
        if head.kind == "convolution":
            keys = {"width": head.width, "norm": head.norm}
        keys |= {"channels": self.features.channels, "classes": classes}
        return network(HEADS[head.kind], dtype, **keys)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters; those of a tuned denoiser are to be taken from its stage."""
        params = {HEAD: self.network.init(key)}
        return params | (self.features.task.init(jax.random.fold_in(key, 1)) if self.tunes else {})

    def logits(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        train: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "b h w k"], PyTree]:
        """As SegmentationTask."""
        if self.tunes:
            denoiser = {name: tree for name, tree in params.items() if name != HEAD}
            maps = self.features(denoiser, frozen, batch)
        else:
            maps = jax.lax.stop_gradient(self.features(frozen.get(DENOISER), frozen, batch))
        pixels = batch["image"] if "image" in batch else batch["mask"]
        with self.network.opened(params[HEAD]) as network:
            logits = network(maps, pixels.shape[1:3], train)
        state = running_stats(network)
        return logits, {HEAD: state} if state else {}
