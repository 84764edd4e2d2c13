"""Keys of the autoencoder whose latents the denoisers learn."""

from collections.abc import Iterator

from stedm_jax.settings.key import Ints, key, nonnegative, positive, section
from stedm_jax.settings.training import Learned, Training, training

TAEF2 = "taef2"
EXACT = ("patches", "haar")
"""Kinds that learn nothing and lose nothing."""


@section
class AutoencoderModel:
    """Network of the autoencoder."""

    kind: str = key(
        "vq",
        "kind; taef2 has channels 64, latent_channels 32 and reads no other key; patches (DCT) and "
        "haar (wavelets) are exact, learn nothing and read `patch` alone",
        choices=("kl", "vq", TAEF2, *EXACT),
    )
    patch: int = key(
        4, "side of a patch, in px; latents have 3 x patch^2 channels", choices=(2, 4, 8, 16)
    )
    channels: int = positive(128, "channels at full resolution")
    multipliers: Ints = positive((1, 2, 4), "channels of each level over `channels`", some=True)
    res_blocks: int = positive(2, "residual blocks of a level")
    latent_channels: int = positive(3, "channels of the latents")
    codes: int = positive(8192, "codes of the codebook of vq")
    attention: bool = key(True, "attention in the middle block")
    legacy_codebook: bool = key(False, "beta on the other term of the loss, as in LDM's code")

    @property
    def exact(self) -> bool:
        """Whether nothing is learned, and nothing lost."""
        return self.kind in EXACT

    @property
    def depth(self) -> int:
        """Channels of the latents, whatever the kind."""
        return 3 * self.patch**2 if self.exact else self.latent_channels

    @property
    def halvings(self) -> int:
        """How often an image is halved."""
        if self.exact:
            return self.patch.bit_length() - 1
        return 3 if self.kind == TAEF2 else len(self.multipliers) - 1


@section
class Adversarial:
    """The discriminator of the autoencoder's training."""

    weight: float = nonnegative(
        0.0,
        "0: no discriminator; LDM: 0.75 (vq), 0.5 (kl), with b1=0.5, b2=0.9, weight_decay=0",
    )
    start: int = nonnegative(50_000, "step from which its loss counts")
    ramp: int = nonnegative(5_000, "steps over which its weight grows from 0; 0: at once")
    filters: int = positive(64, "channels of its first layer")
    layers: int = positive(3, "layers")
    norm: str = key("batch", "normalization", choices=("batch", "group", "none"))


@section
class Autoencoder(Learned):
    """The autoencoder."""

    model: AutoencoderModel = AutoencoderModel()
    crop: int = nonnegative(0, "side of the random crops that a step learns from; 0: whole tiles")
    tiling: int = nonnegative(
        0, "larger images are coded in overlapping parts of this side; 0: never"
    )
    initial_log_variance: float = key(0.0, "of the latents of an untrained kl autoencoder")
    kl_weight: float = nonnegative(1e-6, "weight of the KL divergence")
    codebook_weight: float = nonnegative(1.0, "weight of the codebook loss")
    perceptual_weight: float = nonnegative(1.0, "weight of LPIPS, where its weights are given")
    lpips: str = key("", "a converted folder, or lpips-alex; empty: no perceptual loss and score")
    adversarial: Adversarial = Adversarial()
    stain_jitter: float = nonnegative(0.0, "strength of the random change of stains")
    train: Training = training(100_000, 64, 1e-4)

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return not self.model.exact

    @property
    def halvings(self) -> int:
        """How often an image is halved."""
        return self.model.halvings

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        yield from super().problems(where)
        if not self.learns:
            yield from self._nothing_to_learn(where)
        factor, start, steps = 2**self.halvings, self.adversarial.start, self.train.steps
        if self.crop % factor:
            yield (
                f"{where}.crop is {self.crop}; it must be a multiple of {factor} for this network "
                f"({where}.model)."
            )
        if self.tiling and (self.tiling % factor or self.tiling < 4 * factor):
            yield (
                f"{where}.tiling is {self.tiling}; give 0 (off), or a multiple of {factor}, which "
                f"this autoencoder divides the side of an image by, of {4 * factor} or more."
            )
        if self.adversarial.weight > 0 and start >= steps > 0:
            yield (
                f"{where}.adversarial.start is {start}, which is behind the last of {steps} steps "
                f"({where}.train.steps), so that its weight would do nothing; start earlier, or "
                "set adversarial.weight=0."
            )

    def _nothing_to_learn(self, where: str) -> Iterator[str]:
        """Keys of a training, where there is none."""
        wanted = {
            "train.steps": (self.train.steps, 0),
            "adversarial.weight": (self.adversarial.weight, 0.0),
            "init_from": (self.init_from, ()),
        }
        for name, (value, only) in wanted.items():
            if value != only:
                yield (
                    f"{where}.{name} is {value}, but {where}.model.kind='{self.model.kind}' has "
                    f"nothing to learn; set {where}.{name}={only}."
                )
