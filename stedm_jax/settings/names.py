"""Names of networks that keys may have; tests compare them with those of stedm_jax.models."""

FROZEN = "vit:"
"""Prefix of a pathology encoder that is not trained."""
VITS = ("hipt_vit256", "vit_small_patch16", "uni2_h", "virchow2", "h0_mini")
STYLE_ENCODERS = ("swin_v2_t", "swin_v2", "conv", *(FROZEN + name for name in VITS))
MIT = "mit"
"""The encoder of a segmenter whose sizes stand in the configuration."""
SEGMENTER_ENCODERS = (
    MIT,
    *(f"mit_b{number}" for number in range(6)),
    *("resnet18", "resnet34", "resnet50"),
    *("convnext_tiny", "convnext_small", "convnext_base"),
)
READ_IMAGES = ("svit", "svit_any_size")
"""Aggregations that read the style images themselves, without an encoder."""
