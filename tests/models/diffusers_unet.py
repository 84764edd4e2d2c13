"""LDM's UNet as diffusers names it: UNet2DConditionModel (with transformers) and UNet2DModel (plain
attention).

diffusers numbers by level and block, LDM straight on, so that a table depends on the sizes.
UNet2DModel keeps queries,
keys and values apart, where LDM has one projection ordered head by head: `fuse_qkv` leads there,
  `split_qkv` back.
"""

from collections.abc import Collection, Mapping

import numpy as np

from stedm_jax.convert.torch_names import Rule, Table

RESNET = (
    ("norm1", "in_layers/0"),
    ("conv1", "in_layers/2"),
    ("time_emb_proj", "emb_layers/1"),
    ("norm2", "out_layers/0"),
    ("conv2", "out_layers/3"),
    ("conv_shortcut", "skip_connection"),
)
PLAIN = (("group_norm", "norm"), ("qkv", "qkv"), ("to_out.0", "proj_out"))
"""Plain attention after fuse_qkv."""


def table(
    levels: int, res_blocks: int, attention_at: Collection[int] = (), *, transformer: bool = True
) -> Table:
    """For a UNet of these sizes; `attention_at` are down-sampling factors. Without `transformer`:
    plain attention."""
    attend = _prefixed if transformer else _plain
    ends = (
        ("time_embedding.linear_1", "time_embed/0"),
        ("time_embedding.linear_2", "time_embed/2"),
        ("conv_in", "input_blocks/0/0"),
        ("conv_norm_out", "out/0"),
        ("conv_out", "out/2"),
    )
    rules = [rule for theirs, ours in ends for rule in _renamed(theirs, ours)]
    for number, place in ((0, 0), (1, 2)):
        rules += _resnet(f"mid_block.resnets.{number}", f"middle_block/{place}")
    rules += attend("mid_block.attentions.0", "middle_block/1")
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        first = 1 + level * (res_blocks + 1)
        for number in range(res_blocks):
            rules += _resnet(f"{down}.resnets.{number}", f"input_blocks/{first + number}/0")
        rules += _renamed(f"{down}.downsamplers.0.conv", f"input_blocks/{first + res_blocks}/0/op")
        for number in range(res_blocks + 1):
            rules += _resnet(f"{up}.resnets.{number}", f"output_blocks/{first - 1 + number}/0")
        attends = 2 ** (levels - 1 - level) in attention_at
        place = f"output_blocks/{first - 1 + res_blocks}/{2 if attends else 1}/conv"
        rules += _renamed(f"{up}.upsamplers.0.conv", place)
        for number in range(res_blocks):
            rules += attend(f"{down}.attentions.{number}", f"input_blocks/{first + number}/1")
        for number in range(res_blocks + 1):
            rules += attend(f"{up}.attentions.{number}", f"output_blocks/{first - 1 + number}/1")
    return tuple(rules)


def _resnet(theirs: str, ours: str) -> list[Rule]:
    return [rule for old, new in RESNET for rule in _renamed(f"{theirs}.{old}", f"{ours}/{new}")]


def _plain(theirs: str, ours: str) -> list[Rule]:
    return [rule for old, new in PLAIN for rule in _renamed(f"{theirs}.{old}", f"{ours}/{new}")]


def _prefixed(theirs: str, ours: str) -> list[Rule]:
    return _renamed(f"{theirs}.{{a}}", f"{ours}/{{a}}")


def _renamed(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", f"{ours}/scale", ndim=1),
        Rule(f"{theirs}.weight", f"{ours}/kernel", "kernel"),
        Rule(f"{theirs}.bias", f"{ours}/bias"),
    ]


def fuse_qkv(tensors: Mapping[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """One projection, head by head, in place of to_q, to_k, to_v of each plain attention."""
    out = dict(tensors)
    for name in [name for name in tensors if name.endswith(".group_norm.weight")]:
        block = name.removesuffix(".group_norm.weight")
        for kind in ("weight", "bias"):
            parts = [out.pop(f"{block}.to_{each}.{kind}") for each in "qkv"]
            split = np.stack([part.reshape(heads, -1, *part.shape[1:]) for part in parts], axis=1)
            out[f"{block}.qkv.{kind}"] = split.reshape(-1, *parts[0].shape[1:])
    return out


def split_qkv(tensors: Mapping[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """The inverse of fuse_qkv."""
    out: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        block, _, kind = name.rpartition(".qkv.")
        if not block:
            out[name] = tensor
            continue
        parts = tensor.reshape(heads, 3, -1, *tensor.shape[1:])
        for number, each in enumerate("qkv"):
            out[f"{block}.to_{each}.{kind}"] = parts[:, number].reshape(-1, *tensor.shape[1:])
    return out
