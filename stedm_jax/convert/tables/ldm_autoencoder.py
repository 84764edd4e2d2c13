"""LDM's first stages (VQ-f4, KL-f4, KL-f8), as in released files of an autoencoder alone."""

from stedm_jax.convert.torch_names import Rule, Table

TABLE: Table = (
    *(
        Rule(f"{{a}}.attn_1.{name}.weight", f"{{a}}/attn_1/{name}/kernel", "conv1x1")
        for name in "qkv"
    ),
    Rule("{a}.attn_1.proj_out.weight", "{a}/attn_1/proj_out/kernel", "conv1x1"),
    Rule("quantize.embedding.weight", "quantize/embedding/embedding"),
)
