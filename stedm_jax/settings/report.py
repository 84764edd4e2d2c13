"""Keys of the report."""

from collections.abc import Iterator

from stedm_jax.settings.key import Texts, key, nonnegative, positive, section


@section
class Report:
    """The report."""

    layouts: int = positive(
        6,
        "layouts of the grid of synthetic tiles; the sets, which sample it, are made again",
    )
    styles: int = positive(5, "styles of the grid; likewise")
    intro: str = key("", "first paragraph")
    baseline: str = key("", "arm that the others are compared with; empty: labelled, or the first")
    ours: Texts = key(
        (),
        "arms; the best of them on the validation patients is compared with the best of "
        "report.rivals; empty: all but these and the baseline",
    )
    rivals: Texts = key(
        (), "arms that ours have to beat; empty: every arm is compared with report.baseline"
    )
    ablation: str = key(
        "", 'a key that arms change ("features.timesteps"): a figure over its values'
    )
    whole: str = key(
        "",
        "what --whole of data_prep makes: its test images are segmented whole, and their objects "
        "scored; empty: no",
    )
    whole_least: float = nonnegative(
        0.0, "square microns of the smallest object of whole images that is kept", later=True
    )
    whole_hole: float = nonnegative(
        0.0, "square microns of the largest hole in them that is filled", later=True
    )

    features: str = key(
        "",
        "encoder by whose features synthesis sets are compared with held-out patients: judge, a "
        "converted folder or a registry name (inception-fid); empty: no such scores",
        later=True,
    )
    lpips: str = key(
        "",
        "with report.features: a converted folder, or lpips-alex, for the diversity of the images "
        "of a layout; empty: of features only",
        later=True,
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.lpips and not self.features:
            yield f"{where}.lpips is named without {where}.features; name an encoder there too."
        both = [arm for arm in self.ours if arm in self.rivals]
        if both:
            yield f"{where}.ours and {where}.rivals both name {', '.join(both)}; leave it in one."
        if self.ours and not self.rivals:
            yield f"{where}.ours is {self.ours} without {where}.rivals; name the rivals too."
