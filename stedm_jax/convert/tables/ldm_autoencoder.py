"""LDM's first stages (VQ-f4, KL-f4, KL-f8): released files of an autoencoder alone.

In the file of a whole latent diffusion model the same names stand under PREFIX, and `only_first_stage` takes them out.
"""

from collections.abc import Mapping

import numpy as np

from stedm_jax.convert.table import Rule, Table

PREFIX = "first_stage_model."
IGNORE = (r"^loss\.", r"^discriminator\.", r"^model_ema\.", r"^logvar$")
"""What training leaves in a file: the perceptual network, the discriminator, averages."""

TABLE: Table = (
    *(Rule(f"{{a}}.attn_1.{name}.weight", f"{{a}}/attn_1/{name}/kernel", "conv1x1") for name in "qkv"),
    Rule("{a}.attn_1.proj_out.weight", "{a}/attn_1/proj_out/kernel", "conv1x1"),
    Rule("quantize.embedding.weight", "quantize/embedding/embedding"),
)


def only_first_stage(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The autoencoder of a whole model's tensors, without the prefix; all tensors where nothing has it."""
    found = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    return found or dict(tensors)
