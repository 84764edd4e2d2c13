"""Autoencoders in diffusers (VQModel, AutoencoderKL): blocks renamed, up blocks counted from the
other end."""

from stedm_jax.convert.table import Rule, Table


def table(levels: int) -> Table:
    """For an autoencoder of so many resolutions: 3 for f4, 4 for f8."""
    up = [
        (f"decoder.up_blocks.{number}", f"decoder/up/{levels - 1 - number}")
        for number in range(levels)
    ]
    sides = [("encoder.down_blocks.{i:d}", "encoder/down/{i:d}"), *up]
    return (
        *(rule for theirs, ours in sides for rule in _level(theirs, ours)),
        *_attention(),
        *_pair("{side}.mid_block.resnets.0", "{side}/mid/block_1"),
        *_pair("{side}.mid_block.resnets.1", "{side}/mid/block_2"),
        *_pair("{side}.conv_norm_out", "{side}/norm_out"),
        Rule("quantize.embedding.weight", "quantize/embedding/embedding"),
    )


def _pair(theirs: str, ours: str) -> Table:
    """The usual rules, below a prefix."""
    return (
        Rule(f"{theirs}.weight", f"{ours}/scale", ndim=1),
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/scale", ndim=1),
        Rule(f"{theirs}.weight", f"{ours}/kernel", "kernel"),
        Rule(f"{theirs}.{{a}}.weight", f"{ours}/{{a}}/kernel", "kernel"),
        Rule(f"{theirs}.{{a}}", f"{ours}/{{a}}"),
    )


def _level(theirs: str, ours: str) -> Table:
    return (
        *_pair(f"{theirs}.resnets.{{j:d}}.conv_shortcut", f"{ours}/block/{{j:d}}/nin_shortcut"),
        *_pair(f"{theirs}.resnets.{{j:d}}", f"{ours}/block/{{j:d}}"),
        *_pair(f"{theirs}.downsamplers.0", f"{ours}/downsample"),
        *_pair(f"{theirs}.upsamplers.0", f"{ours}/upsample"),
    )


def _attention() -> Table:
    names = (
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
    )
    # Files of older versions; behind the others, so that export writes today's names.
    names += (("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "proj_out"))
    # to_out is a list: its second entry is a dropout.
    return tuple(
        rule
        for theirs, ours in names
        for rule in _pair(
            f"{{side}}.mid_block.attentions.0.{theirs}", f"{{side}}/mid/attn_1/{ours}"
        )
    )


TABLE_F4: Table = table(3)
TABLE_F8: Table = table(4)
