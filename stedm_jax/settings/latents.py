"""Keys of the latents: their scale, and the cache of them."""

from stedm_jax.settings.key import key, nonnegative, positive, section


@section
class Latents:
    """Scale and cache of the latents.

    The moments of latents (never a draw) can be computed once, kept in the workdir, and trained
    from: a step then spares the autoencoder, which costs as much as two forward passes of the
    denoiser. Worth it where training sees a tile more often than there are views of it;
    --stage=plan prints both numbers, and the bytes.
    """

    scale: float = nonnegative(1.0, "factor of the latents; 0: measured")
    each: bool = key(
        True,
        "a factor is measured for each channel; False: one for all, so that the channel that "
        "varies most has variance 1, as latents of exact first stages need it "
        "(autoencoder.model.kind)",
    )
    tiles: int = positive(1024, "tiles on which it is measured")
    cache: bool = key(False, "computes the latents once and keeps them, for stage generator")
    variants: int = key(
        8, "symmetries of each tile that are stored; 1: drawn with each copy", choices=(1, 8)
    )
    copies: int = positive(
        4,
        "draws of stain jitter, shift and rotation that are stored; where all are off, it is one",
    )
    dtype: str = key(
        "float16", "data type of what is stored", choices=("float16", "bfloat16", "float32")
    )
