"""LDM's UNet, which has our names: only its plain attention has convolutions where we have linear
layers.

Also of STEDM's release, whose middle block counts the style block.
"""

from stedm_jax.convert.torch_names import Rule, Table, moved

TABLE: Table = (
    Rule("{a}.qkv.weight", "{a}/qkv/kernel", "conv1d1", ndim=3),
    # Of a spatial transformer, and of plain attention.
    Rule("{a}.proj_out.weight", "{a}/proj_out/kernel", "kernel", ndim=4),
    Rule("{a}.proj_out.weight", "{a}/proj_out/kernel", "conv1d1", ndim=3),
)


def _below(theirs: str, ours: str) -> Table:
    """The table, and the usual rules, for a part of the network."""
    own = (
        Rule(f"{theirs}{rule.torch[3:]}", f"{ours}{rule.ours[3:]}", rule.layout, rule.ndim)
        for rule in TABLE
    )
    return (*own, *moved(theirs, ours))


STEDM_TABLE: Table = (
    *_below("middle_block.1.block", "style_block"),
    *_below("middle_block.2", "middle_block/1"),
    *_below("middle_block.3", "middle_block/2"),
    *TABLE,
)
"""With the style block, in a module around it, as the second of the middle's four."""

GUIDED_TABLE: Table = (
    *_below("model.diffusion_model", "unet"),
    *moved("cond_stage_model", "guide"),
)
"""Of Large-Image-Diffusion: the UNet, and the linear maps of the embeddings that guide it
(patch_fc, region_fc)."""
