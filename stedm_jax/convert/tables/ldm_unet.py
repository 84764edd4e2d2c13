"""LDM's UNet, which has our names: only its plain attention has convolutions where we have linear
layers.

Also of STEDM's release, whose middle block counts the style block.
"""

from stedm_jax.convert.table import Rule, Table

TABLE: Table = (
    Rule("{a}.qkv.weight", "{a}/qkv/kernel", "conv1d1", ndim=3),
    # Of a spatial transformer, and of plain attention.
    Rule("{a}.proj_out.weight", "{a}/proj_out/kernel", "kernel", ndim=4),
    Rule("{a}.proj_out.weight", "{a}/proj_out/kernel", "conv1d1", ndim=3),
)


def _moved(theirs: str, ours: str) -> Table:
    return (
        *(
            Rule(f"{theirs}{rule.torch[3:]}", f"{ours}{rule.ours[3:]}", rule.layout, rule.ndim)
            for rule in TABLE
        ),
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/scale", ndim=1),
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/kernel", "kernel"),
        Rule(f"{theirs}.{{a}}", f"{ours}/{{a}}"),
    )


STEDM_TABLE: Table = (
    *_moved("middle_block.1", "style_block"),
    *_moved("middle_block.2", "middle_block/1"),
    *_moved("middle_block.3", "middle_block/2"),
    *TABLE,
)
"""With the style block as the second of the middle's four."""

GUIDED_TABLE: Table = (
    *_moved("model.diffusion_model", "unet"),
    Rule("cond_stage_model.{a}.weight", "guide/{a}/kernel", "kernel"),
    Rule("cond_stage_model.{a}", "guide/{a}"),
)
"""Of Large-Image-Diffusion: the UNet, and the linear maps of the embeddings that guide it
(patch_fc, region_fc)."""
