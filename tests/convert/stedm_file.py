"""A small checkpoint with the names of the code released with STEDM, made without our tables."""

from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.settings.diffusion import Diffusion, Style, Unet
from tests.convert.torch_zip import Call, Named, whole, write_zip

DENOISER = Diffusion(
    unet=Unet(base=8, multipliers=(1, 2), res_blocks=1, heads=2),
    style=Style(encoder="swin_v2", width=8, dim=16),
)
FIRST = {"kind": "vq", "channels": 4, "multipliers": (1, 1, 1), "latent_channels": 3}
FIRST |= {"res_blocks": 1, "codes": 16}
TILES, SIDE, SVIT = 3, 32, 256
TABLES = ("betas", "alphas_cumprod", "posterior_variance", "scale_factor")


def conv(name: str, out: int, given: int, side: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, given, side, side), f"{name}.bias": (out,)}


def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def linear(name: str, out: int, given: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, given), f"{name}.bias": (out,)}


def residual(name: str, given: int, out: int, emb: int) -> dict[str, tuple[int, ...]]:
    shapes = norm(f"{name}.in_layers.0", given) | conv(f"{name}.in_layers.2", out, given, 3)
    shapes |= linear(f"{name}.emb_layers.1", out, emb) | norm(f"{name}.out_layers.0", out)
    shapes |= conv(f"{name}.out_layers.3", out, out, 3)
    return shapes | (conv(f"{name}.skip_connection", out, given, 1) if given != out else {})


def unet() -> dict[str, tuple[int, ...]]:
    """base 8, multipliers (1, 2), one block a level, 6 in and 3 out, style of 16."""
    shapes = linear("time_embed.0", 32, 8) | linear("time_embed.2", 32, 32)
    shapes |= conv("input_blocks.0.0", 8, 6, 3) | residual("input_blocks.1.0", 8, 8, 32)
    shapes |= conv("input_blocks.2.0.op", 8, 8, 3) | residual("input_blocks.3.0", 8, 16, 32)
    shapes |= residual("middle_block.0", 16, 16, 32)
    shapes |= residual("middle_block.1.block", 16, 16, 16) | norm("middle_block.2.norm", 16)
    shapes |= {"middle_block.2.qkv.weight": (48, 16, 1), "middle_block.2.qkv.bias": (48,)}
    shapes |= {"middle_block.2.proj_out.weight": (16, 16, 1), "middle_block.2.proj_out.bias": (16,)}
    shapes |= residual("middle_block.3", 16, 16, 32)
    shapes |= residual("output_blocks.0.0", 32, 16, 32) | residual("output_blocks.1.0", 24, 16, 32)
    shapes |= conv("output_blocks.1.1.conv", 16, 16, 3) | residual("output_blocks.2.0", 24, 8, 32)
    shapes |= residual("output_blocks.3.0", 16, 8, 32)
    return shapes | norm("out.0", 8) | conv("out.2", 3, 8, 3)


def swin() -> dict[str, tuple[int, ...]]:
    """Width 8, two blocks in each of four stages, windows of 4, to 16."""
    shapes = conv("features.0.0", 8, 3, 4) | norm("features.0.2", 8)
    for stage in range(4):
        width, heads = 8 * 2**stage, max(1, 8 * 2**stage // 32)
        if stage:
            shapes |= {f"features.{2 * stage}.reduction.weight": (width, 2 * width)}
            shapes |= norm(f"features.{2 * stage}.norm", width)
        for block in range(2):
            name = f"features.{2 * stage + 1}.{block}"
            shapes |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
            shapes |= {f"{name}.attn.logit_scale": (heads, 1, 1)}
            shapes |= {f"{name}.attn.relative_position_index": (256,)}
            shapes |= {f"{name}.attn.relative_coords_table": (1, 7, 7, 2)}
            shapes |= linear(f"{name}.attn.qkv", 3 * width, width)
            shapes |= linear(f"{name}.attn.proj", width, width)
            shapes |= linear(f"{name}.attn.cpb_mlp.0", 512, 2)
            shapes |= {f"{name}.attn.cpb_mlp.2.weight": (heads, 512)}
            shapes |= linear(f"{name}.mlp.0", 4 * width, width)
            shapes |= linear(f"{name}.mlp.3", width, 4 * width)
    return shapes | norm("norm", 64) | linear("head", 16, 64)


def svit() -> dict[str, tuple[int, ...]]:
    """As published, to 16."""
    pixels = 3 * TILES * 64
    shapes = norm("to_patch_embedding.to_patch_tokens.1", pixels)
    shapes |= linear("to_patch_embedding.to_patch_tokens.2", SVIT, pixels)
    shapes |= {"cls_token": (1, 1, SVIT), "pos_embedding": (1, (SIDE // 8) ** 2 + 2, SVIT)}
    shapes |= linear("to_time_embedding.1", SVIT, SVIT)
    for number in range(6):
        name = f"transformer.layers.{number}"
        shapes |= norm(f"{name}.0.norm", SVIT) | {f"{name}.0.fn.temperature": ()}
        shapes |= {f"{name}.0.fn.to_qkv.weight": (2304, SVIT)}
        shapes |= linear(f"{name}.0.fn.to_out.0", SVIT, 768) | norm(f"{name}.1.norm", SVIT)
        shapes |= linear(f"{name}.1.fn.net.0", SVIT, SVIT)
        shapes |= linear(f"{name}.1.fn.net.3", SVIT, SVIT)
    return shapes | norm("mlp_head.0", SVIT) | linear("mlp_head.1", 16, SVIT)


def style(kind: str) -> dict[str, tuple[int, ...]]:
    """Names below the block that aggregates."""
    if kind == "none":
        return {}
    if kind == "svit":
        return {f"vit.{name}": shape for name, shape in svit().items()}
    shapes = {f"{top}.{name}": each for top in TWICE for name, each in swin().items()}
    if kind == "linear":
        shapes |= linear("seq.1", 16, 16 * TILES) | linear("seq.3", 16, 16)
    return shapes


TWICE = ("embedder", "_embedder")


def tensors(kind: str, first: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All of a file: random, the averages those of the last weights + 1.

    Args:
      kind: of aggregation.
      first: the first stage under LDM's names.
    """
    rng = np.random.default_rng(0)

    def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        return {
            name: 0.1 * rng.normal(size=each).astype(np.float32) for name, each in shapes.items()
        }

    one = {f"diffusion_model.{name}": each for name, each in random(unet()).items()}
    out = {f"model.{name}": each for name, each in one.items()}
    out |= {f"model_ema.{name.replace('.', '')}": each + 1 for name, each in one.items()}
    out |= {"model_ema.decay": np.float32(0.9999), "model_ema.num_updates": np.int32(7)}
    out |= {f"first_stage_model.{name}": each for name, each in first.items()}
    out |= random({"cond_stage_model.channel_mapper.weight": (3, 2, 1, 1)})
    out |= {name: rng.normal(size=() if name == "scale_factor" else 1000) for name in TABLES}
    made = random(style(kind))
    for name in made:
        made[name] = made.get(name.replace("_embedder", "embedder"), made[name])
    out |= {
        f"{top}.{name}": each for top in ("agg_block", "_agg_block") for name, each in made.items()
    }
    return {
        f"{top}.{name}": np.asarray(each)
        for top in ("_model", "model")
        for name, each in out.items()
    }


def lightning(path: Path, state: dict[str, np.ndarray]) -> Path:
    """The file, with what Lightning keeps beside: objects of packages that are not here."""
    keys = {id(array): str(number) for number, array in enumerate(state.values())}
    stored: dict[str, Any] = {name: whole(keys[id(array)], array) for name, array in state.items()}
    hyper = Call(Named("omegaconf.dictconfig", "DictConfig"), state={"_content": {"lr": 1e-6}})
    own = Call(Named("utils.patches", "PatchHandler"), 3, state={"size": 512})
    moments = {"exp_avg": whole("moments", np.ones(3, np.float32)), "step": 7}
    content = {"epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.1.0"}
    content |= {"state_dict": stored, "hyper_parameters": hyper, "data": own}
    return write_zip(path, content | {"optimizer_states": [{"state": {0: moments}}]})


class Foreign:
    """An object of a package that is not installed where the file is read."""
