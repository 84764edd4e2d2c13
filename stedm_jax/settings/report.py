"""Keys of the report."""

from stedm_jax.settings.key import key, positive, section


@section
class Report:
    """The report."""

    layouts: int = positive(6, "layouts of the grid of synthetic tiles")
    styles: int = positive(5, "styles of the grid")
    intro: str = key("", "first paragraph")
    baseline: str = key("", "arm that the others are compared with; empty: labelled, or the first")
    ablation: str = key(
        "", 'a key that arms change ("features.timesteps"): a figure over its values'
    )
    whole: str = key(
        "",
        "what --whole of data_prep makes: its test images are segmented whole, and their objects "
        "scored; empty: no",
    )
