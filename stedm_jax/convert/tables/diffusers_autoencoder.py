"""Autoencoders in diffusers (VQModel, AutoencoderKL): blocks renamed, up blocks counted from the
other end."""

from stedm_jax.convert.torch_names import Rule, Table, moved

_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",  # a list, whose second entry is a dropout
    # Of older files; behind the others, so that export writes today's names.
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}


def table(levels: int) -> Table:
    """For an autoencoder of so many resolutions: 3 for f4, 4 for f8."""
    sides = {"encoder.down_blocks.{i:d}": "encoder/down/{i:d}"}
    for number in range(levels):
        sides[f"decoder.up_blocks.{number}"] = f"decoder/up/{levels - 1 - number}"
    middle, ours = "{side}.mid_block", "{side}/mid"
    attention = _ATTENTION.items()
    return (
        *(rule for names in sides.items() for rule in _level(*names)),
        *(
            rule
            for name, own in attention
            for rule in moved(f"{middle}.attentions.0.{name}", f"{ours}/attn_1/{own}")
        ),
        *moved(f"{middle}.resnets.0", f"{ours}/block_1"),
        *moved(f"{middle}.resnets.1", f"{ours}/block_2"),
        *moved("{side}.conv_norm_out", "{side}/norm_out"),
        Rule("quantize.embedding.weight", "quantize/embedding/embedding"),
    )


def _level(theirs: str, ours: str) -> Table:
    block, our_block = f"{theirs}.resnets.{{j:d}}", f"{ours}/block/{{j:d}}"
    return (
        *moved(f"{block}.conv_shortcut", f"{our_block}/nin_shortcut"),
        *moved(block, our_block),
        *moved(f"{theirs}.downsamplers.0", f"{ours}/downsample"),
        *moved(f"{theirs}.upsamplers.0", f"{ours}/upsample"),
    )
