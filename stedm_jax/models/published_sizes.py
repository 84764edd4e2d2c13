"""The networks of publications at their published sizes: "file:Class", and its arguments."""

from typing import Any

from stedm_jax.models.functional import Functional
from stedm_jax.models.named_networks import find, network

_F4 = {"channels": 128, "multipliers": (1, 2, 4), "latent_channels": 3}
_F8 = {"channels": 128, "multipliers": (1, 2, 4, 4), "latent_channels": 4}
_LDM = {"in_channels": 6, "out_channels": 3, "base": 128, "multipliers": (1, 4, 8), "heads": 8}
_LID = {
    "in_channels": 3,
    "out_channels": 3,
    "base": 192,
    "multipliers": (1, 2, 3, 5),
    "heads": 1,
    "attention_at": (2, 4, 8),
    "attention": "transformer",
    "context_dim": 512,
}

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "vq-f4": ("autoencoder:Autoencoder", {"kind": "vq", **_F4}),
    "kl-f4": ("autoencoder:Autoencoder", {"kind": "kl", **_F4}),
    "kl-f8": ("autoencoder:Autoencoder", {"kind": "kl", **_F8}),
    "taef2": ("taef2:TAEF2", {}),
    "ldm-unet": ("unet:UNet", _LDM),
    "stedm-unet": ("unet:UNet", {"style_dim": 512, **_LDM}),
    "lid-unet": ("unet:UNet", _LID),
    "lid-guided": (
        "guided:GuidedUNet",
        {"widths": {"patch": 384, "region": 768}, "dim": 512, **_LID},
    ),
    "swin-v2-t": ("swin_v2:SwinV2", {"classes": 1000}),
    "svit": ("svit:SViT", {"out": 512, "count": 10}),
    "vit-hipt256": ("vit:ViT", {"size": "hipt_vit256"}),
    "vit-uni2-h": ("vit:ViT", {"size": "uni2_h"}),
    "vit-virchow2": ("vit:ViT", {"size": "virchow2"}),
    "vit-h0-mini": ("vit:ViT", {"size": "h0_mini"}),
    "mit-b2": ("mit:MixTransformer", {"sizes": "mit_b2"}),
    "resnet18": ("resnet:ResNet", {"sizes": "resnet18"}),
    "resnet34": ("resnet:ResNet", {"sizes": "resnet34"}),
    "resnet50": ("resnet:ResNet", {"sizes": "resnet50"}),
    "convnext-tiny": ("convnext:ConvNeXt", {"sizes": "convnext_tiny"}),
    "unet-mit-b2": ("segmenter:Segmenter", {"classes": 2, "encoder": "mit_b2", "norm": "batch"}),
    "unet-resnet18": (
        "segmenter:Segmenter",
        {"classes": 2, "encoder": "resnet18", "norm": "batch"},
    ),
    "unet-convnext-tiny": (
        "segmenter:Segmenter",
        {"classes": 2, "encoder": "convnext_tiny", "norm": "batch"},
    ),
    "vgg16-fcn8s": ("fcn8s:Fcn8s", {"classes": 2}),
    "dcan": ("dcan:Dcan", {"classes": 2}),
    "patchgan": ("discriminator:Discriminator", {}),
    "lpips-alex": ("lpips:LPIPS", {}),
    "inception-fid": ("inception:Inception", {}),
}


def build_published(name: str) -> Functional:
    """One of PUBLISHED, in float32."""
    path, arguments = PUBLISHED[name]
    if "size" in arguments:
        arguments = {"size": find("vit:vit_size")(arguments["size"])}
    if "sizes" in arguments:
        arguments = find(f"{path.partition(':')[0]}:SIZES")[arguments["sizes"]]
    return network(path, **arguments)
