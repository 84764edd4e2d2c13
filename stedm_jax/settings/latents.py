"""Keys of the latents: their scale, and the cache of them."""

from stedm_jax.settings.key import key, section


@section
class Latents:
    """Scale and cache of the latents.

    The moments of latents (never a draw) can be computed once, kept in the workdir, and trained
    from: a step then spares the autoencoder, which costs as much as two forward passes of the
    denoiser. Worth it where training sees a tile more often than there are views of it;
    --stage=plan prints both numbers, and the bytes.
    """

    scale: float = key(1.0, "factor of the latents; 0: measured, each channel by itself", low=0)
    tiles: int = key(1024, "tiles on which it is measured", low=1)
    cache: bool = key(False, "computes the latents once and keeps them, for stage generator")
    variants: int = key(
        8, "symmetries of each tile that are stored; 1: drawn with each copy", choices=(1, 8)
    )
    copies: int = key(
        4,
        "draws of stain jitter, shift and rotation that are stored; where all are off, it is one",
        low=1,
    )
    dtype: str = key(
        "float16", "data type of what is stored", choices=("float16", "bfloat16", "float32")
    )
