"""Keys of the guided denoiser, whose features segment (PathSegDiff)."""

from collections.abc import Iterator

from stedm_jax.settings.diffusion import LOSSES, Denoiser, Schedule, Unet
from stedm_jax.settings.key import Shares, Texts, fraction, key, nonnegative, positive, section
from stedm_jax.settings.names import FROZEN, VITS
from stedm_jax.settings.training import Optimizer, Training


@section
class Guide:
    """What the denoiser is given of an image."""

    source: str = key(
        "ssl",
        "encoder: ssl, of the same run; vit:NAME, a published one; or none",
        choices=("ssl", "none", *(FROZEN + name for name in VITS)),
    )
    weights: str = key("", "of a vit:NAME: a converted folder or a registry name")
    tokens: Texts = key(
        ("patch",),
        "region: the field around a tile too, from the margin packed with it",
        choices=("patch", "region"),
        some=True,
    )
    region_width: int = nonnegative(
        0,
        "length of the region embedding where published weights have one of an encoder that is not "
        "available: the zero vector takes its place, as in LID; 0: it is made from the field",
    )
    dim: int = positive(512, "length of a token")
    normalise: bool = key(True, "embeddings to length 1, before the linear map")
    drop: float = fraction(0.1, "share of dropped tokens, each by itself")

    @property
    def sees_around(self) -> bool:
        """Whether it needs the field around a tile."""
        return self.source != "none" and "region" in self.tokens and not self.region_width

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.source.startswith(FROZEN) != bool(self.weights):
            yield (
                f"{where}.source='{self.source}' and {where}.weights='{self.weights}' do not go "
                "together: a Vision Transformer vit:NAME needs weights, and no other source takes "
                "any."
            )


@section
class Guided(Denoiser):
    """LID's model of tiles of 256 px (Graikos et al., CVPR 2024), PathSegDiff's base.

    Runs where stages has "guided". unet.style_path has no effect, as there is no style. The
    published number of steps was not found.
    """

    unet: Unet = Unet(
        base=192,
        multipliers=(1, 2, 3, 5),
        attention_at=(2, 4, 8),
        heads=1,
        attention="transformer",
        context_dim=512,
    )
    guide: Guide = Guide()
    schedule: Schedule = Schedule(beta_end=0.0195)
    loss: str = key("l2", "distance", choices=LOSSES)
    cache: bool = key(
        False,
        "computes latents and embeddings once and keeps them, with latents.variants, copies and "
        "dtype, for this stage and for the heads on its features",
    )
    splits: Shares = nonnegative({"train": 0.5, "style": 0.5}, "split -> share of a batch")
    train: Training = Training(steps=100_000, batch=100, optimizer=Optimizer(lr=1e-4, warmup=1000))

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        yield from super().problems(where)
        unet, guide = self.unet, self.guide
        if guide.source != "none" and (
            unet.attention != "transformer" or unet.context_dim != guide.dim
        ):
            yield (
                f"{where}.guide.dim is {guide.dim}, the length of the guide's tokens, but "
                f"{where}.unet has attention='{unet.attention}' and "
                f"context_dim={unet.context_dim}; set {where}.unet.attention='transformer' and "
                f"{where}.unet.context_dim={guide.dim}."
            )
        if self.cache and guide.sees_around:
            yield (
                f"{where}.cache keeps what is made of tiles, and a region token is made of the "
                f"field around them; set {where}.cache=False, or {where}.guide.tokens=patch."
            )
