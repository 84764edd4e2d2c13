"""smp.Unet("tu-convnext_*") joins timm's numbers with underscores; ours are timm's own."""

from stedm_jax.convert.torch_names import Table, moved

TABLE: Table = (
    *moved("encoder.model.stem_{n:d}", "encoder/stem/{n}"),
    *moved("encoder.model.stages_{n:d}", "encoder/stages/{n}"),
)
