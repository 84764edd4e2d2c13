"""Keys of an arm: the tiles that it learns from, and what it trains."""

from collections.abc import Iterator

from stedm_jax.settings.arm_networks import HEADS, NETWORKS
from stedm_jax.settings.key import (
    REQUIRED,
    Changes,
    Pairs,
    Texts,
    fraction,
    key,
    nonnegative,
    section,
)

LABELLED = ("train", "style")
"""Splits whose tiles an arm may learn from; the others are for judging."""


@section
class Arm:
    """A way to train a segmenter, to be compared with others.

    The usual remedies against other stains are arms too: {"real": 1.0, "stain_jitter": 0.2} is HED
    jitter (Tellez et al., 2018), of real and synthetic tiles alike; stain normalization is
    `normalize`, by patient, or --stain_norm of data_prep, by tile.
    """

    real: float = fraction(REQUIRED, "share of real tiles in a batch; the rest is synthetic")
    stain_jitter: float = nonnegative(REQUIRED, "strength of the stain jitter of training")
    network: str = key("model", "network, if not `model`", choices=tuple(NETWORKS), terse=True)
    changes: Changes = key(
        (),
        '(key of config.segmentation, value) pairs that differ: (("features.timesteps", (150,)),)',
        terse=True,
    )
    set: str = key("", "set of synthetic tiles; empty: the only one", terse=True)
    sets: Pairs = key(
        (),
        "in place of set: (set, weight) pairs that divide the synthetic share of a batch",
        terse=True,
    )
    splits: Pairs = key(
        (("train", 1.0),),
        "(split, weight) pairs that divide the real share of a batch, however many tiles each has",
        terse=True,
    )

    then_real: int = nonnegative(
        0, "the last steps of training, which draw real tiles alone; 0: none", terse=True
    )

    reject: float = nonnegative(
        0.0,
        "pixels of synthetic tiles are not learned where their loss under the judge exceeds so "
        "many times the mean of their class on validation patients (FreeMask: 1.25); 0: all are",
        terse=True,
    )
    choose: Texts = key(
        (),
        "names of other arms, of which at least one with real=1: trains nothing and takes the one "
        "that does best on validation patients, but the first with real=1 unless the gain is "
        "larger than its standard error",
        terse=True,
    )
    choose_over: str = key(
        "point",
        "grid: choose by the validation patients of all draws and generator seeds of config.grid",
        choices=("point", "grid"),
        terse=True,
    )
    normalize: str = key(
        "",
        "choose names one arm, whose segmenters are scored again, on patients who are brought to "
        "the stain of the real training tiles, each measured by all of its tiles",
        choices=("", "reinhard", "macenko"),
        terse=True,
    )

    @property
    def is_head(self) -> bool:
        """Whether it trains a head on features."""
        return self.network in HEADS

    @property
    def real_shares(self) -> dict[str, float]:
        """Split -> its share of the real tiles; they add up to 1."""
        return _shares(self.splits)

    @property
    def set_shares(self) -> dict[str, float]:
        """Set -> its share of the synthetic tiles; they add up to 1; empty where none is named."""
        return _shares(((self.set, 1.0),) if self.set else self.sets)

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        trained = ("network", "changes", "set", "sets", "splits", "then_real", "reject")
        if self.choose and (given := [n for n in trained if getattr(self, n) != getattr(Arm, n)]):
            yield (
                f"{where}.choose is given together with {', '.join(given)}, but an arm that "
                "chooses trains nothing; give one or the other."
            )
        if self.normalize and (len(self.choose) != 1 or self.choose_over == "grid"):
            yield (
                f"{where}.normalize is '{self.normalize}', which scores the segmenters of one "
                f"other arm again; name it: {where}.choose=('labelled',), without choose_over."
            )
        if self.set and self.sets:
            yield f"{where}.set and {where}.sets are both given; give one of them."
        for name in ("then_real", "reject"):
            if self.real == 1 and (value := getattr(self, name)):
                yield f"{where}.{name} is {value}, but {where}.real=1 draws no synthetic tiles."
        for name in ("sets", "splits"):
            pairs = getattr(self, name)
            if len(dict(pairs)) < len(pairs):
                yield f"{where}.{name} is {pairs}, which names one twice."
            if any(weight <= 0 for _, weight in pairs):
                yield f"{where}.{name} is {pairs}; give weights above 0."
        wrong = [split for split, _ in self.splits if split not in LABELLED]
        if wrong or not self.splits:
            yield (
                f"{where}.splits is {self.splits}; give (split, weight) pairs of the splits "
                f"{' and '.join(LABELLED)}, since the patients of the others are only for judging."
            )


def _shares(pairs: Pairs) -> dict[str, float]:
    """Weights as shares that add up to 1."""
    total = sum(weight for _, weight in pairs)
    return {name: weight / total for name, weight in pairs}
