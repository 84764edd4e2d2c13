"""Every key of a configuration with the default of the STEDM paper (ECCV 2024); experiments change
values only.

A key that is not here is refused. Lengths are in pixels, resolutions in microns per pixel, times in
steps.
"""

from typing import Any

from ml_collections import ConfigDict

from configs._pathsegdiff import features, guided, head, ssl
from configs._training import start, training


def _autoencoder() -> Any:
    return ConfigDict(
        {
            **start(),
            "model": {
                "kind": "vq",  # or kl, or taef2 (channels 64, latent_channels 32; the other keys say nothing then)
                "channels": 128,
                "multipliers": (1, 2, 4),
                "res_blocks": 2,
                "latent_channels": 3,
                "codes": 8192,
                "attention": True,  # in the middle block
                "legacy_codebook": False,  # beta on the other term, as in LDM's code
            },
            "crop": 0,  # side of the random crops that a step learns from; 0: whole tiles
            "tiling": 0,  # larger images are encoded and decoded in overlapping parts of this side; 0: never
            "initial_log_variance": 0.0,  # of the latents of an untrained kl autoencoder
            "kl_weight": 1e-6,
            "codebook_weight": 1.0,
            "perceptual_weight": 1.0,  # of LPIPS, where its weights are given
            "lpips": "",  # a converted folder, or lpips-alex; empty: no perceptual loss and no such score
            "adversarial": {
                "weight": 0.0,  # 0: no discriminator; LDM: 0.75 (vq), 0.5 (kl), with b1=0.5, b2=0.9, weight_decay=0
                "start": 50_000,  # step
                "ramp": 5_000,  # steps over which its weight grows from 0; 0: at once, as published
                "filters": 64,
                "layers": 3,
                "norm": "batch",  # or group, none
            },
            "splits": {"train": 1.0},  # split -> share of the batch
            "stain_jitter": 0.0,
            "train": training(100_000, 64, 1e-4),
        }
    )


def _diffusion() -> Any:
    return ConfigDict(
        {
            **start(),
            "unet": {
                "base": 128,
                "multipliers": (1, 4, 8),
                "res_blocks": 2,
                "attention_at": (),  # downsampling factors; the middle block always attends
                "heads": 8,
                "attention": "plain",  # or transformer, which can read a context
                "context_dim": 0,  # length of a context token; 0: none
                "style_path": "middle",  # or all, both, adagn, cross (with style.aggregation = "tokens")
                "dropout": 0.0,
                "remat": False,
            },
            "style": {
                "source": "multipatch",  # or nearby, augmented, none
                "scope": "slide",  # multipatch draws from the same slide, or patient
                "encoder": "swin_v2_t",  # or swin_v2, conv, vit:NAME (hipt_vit256, uni2_h, ...), which is not trained
                "weights": "",  # of a vit:NAME: a converted folder or a name of the registry
                "width": 96,
                "aggregation": "mean",  # or max, linear, svit, attention, none, tokens
                "dim": 512,
                "tiles": 10,
                "drop": 0.25,
                "remat": False,  # one style tile after another, computed again in the backward pass, for memory
            },
            "layout_channels": 3,
            "drop_layout": 0.0,  # share of dropped styles whose layout goes too: guidance then strengthens both
            "schedule": {
                "name": "ldm_linear",
                "steps": 1000,
                "beta_start": 0.0015,
                "beta_end": 0.0205,
                "zero_terminal_snr": False,
            },
            "prediction": "eps",  # or v, x0
            "loss": "l1",  # or l2
            "weighting": "uniform",  # or min_snr
            "splits": {"train": 1.0},
            "stain_jitter": 0.0,  # the same jitter on a tile and its style tiles
            # What train.visual_every draws: fixed layouts in the styles of fixed patients never
            # annotated, at fixed noise, and curves of how well these keep to both.
            "watch": {
                "layouts": 4,
                "styles": 4,
                "steps": 15,  # of dpmpp_2m
                "guidance": 1.0,
                "judge": False,  # trains the judge of stage segmentation first, for the curve of the layouts
            },
            "train": training(3906, 64, 1.6e-6, ema__decay=0.9999),
        }
    )


def _synthesis() -> Any:
    return ConfigDict(
        {
            "count": 20_000,
            "batch": 64,
            "styles": "style",  # split whose patients lend their style
            "layouts": "train",  # split whose masks are the layouts
            "shares": (
                ("foreground", 0.5),
                ("rest", 0.5),
            ),  # of layouts, as data.shares; empty: as they come
            "min_labelled": 0.99,  # least labelled share of a layout
            "weights": "ema",  # or params, ema:0.07 (combined from diffusion.train.ema's snapshots), a converted folder
            "sampler": "ddim",  # or dpmpp_2m
            "steps": 128,
            "spacing": "uniform_stride",  # or uniform_lambda, trailing, linspace
            "eta": 0.0,
            "guidance": {
                "scale": 1.5,
                "rescale": 0.7,
                "interval": (0.0, 1.0),  # of noise levels that are guided
                "layout_interval": (
                    0.0,
                    1.0,
                ),  # of those where a dropped layout counts (drop_layout)
            },
            "codec": "png",
        }
    )


def _segmentation() -> Any:
    return ConfigDict(
        {
            **start(),
            "model": {
                "kind": "unet",  # or fcn8s, dcan
                "encoder": "mit",  # of these sizes, or a named one: mit_b0 ... b5, resnet18/34/50, convnext_tiny ...
                "norm": "batch",  # or group, which keeps no running statistics
                "drop_path": 0.1,  # stochastic depth of a MiT
                "imagenet_input": True,  # inputs scaled as for weights that were trained on ImageNet
                "widths": (64, 128, 320, 512),
                "depths": (3, 4, 6, 3),
                "heads": (1, 2, 5, 8),
                "reductions": (8, 4, 2, 1),
                "decoder": (256, 128, 64, 32, 16),
                "fcn8s": {
                    "widths": (64, 128, 256, 512, 512),  # of VGG's stages
                    "hidden": 4096,  # channels of the two wide convolutions
                },
                "dcan": {
                    "widths": (64, 128, 256, 512, 512),  # of VGG's stages
                    "hidden": 1024,
                    "radius": 3,  # of the disk by which contours are widened, in pixels
                },
            },
            "features": features(),
            "head": head(),
            # arm -> share of real tiles in a batch (the rest is synthetic), and the stain jitter of
            # training; perhaps "network", another one than `model` (stedm_jax/stages/arms.py), and
            # "changes", (key, value) pairs that hold for this arm: {"real": 1.0, "stain_jitter":
            # 0.0, "network": "ldm", "changes": (("features.timesteps", (150,)),)}. The usual
            # remedies against other stains are arms too: "labelled+jitter": {"real": 1.0,
            # "stain_jitter": 0.2} is HED jitter (Tellez et al., 2018); stain normalisation is
            # --stain_norm of data_prep.
            "arms": {
                "labelled": {"real": 1.0, "stain_jitter": 0.0},
                "labelled+synthetic": {"real": 0.2, "stain_jitter": 0.0},
            },
            # trained on real tiles only, judges whether synthetic images keep to their layouts
            "judge": {"real": 1.0, "stain_jitter": 0.5},
            "seeds": (0, 1, 2),
            "ce_weight": 0.1,
            "dice_weight": 0.9,
            "border": 0,  # ignored pixels along the edges, in training and scoring
            "checkpoint": "last",  # or best, by IoU of the validation patients
            "train": training(11_718, 64, 8e-6),
        }
    )


def get_base() -> Any:
    """The complete configuration; experiments start from it."""
    return ConfigDict(
        {
            "name": "base",
            "title": "",
            "seed": 0,
            "dtype": "bfloat16",  # of the computation; parameters, norms and losses stay float32
            "mesh": {
                "data": -1,
                "fsdp": 1,
                "cpu_devices": 0,
            },  # cpu_devices: parts of a CPU; 0: one for each core
            "compile_cache": True,  # kept in the workdir
            "stages": (
                "data",
                "autoencoder",
                "latents",
                "diffusion",
                "synthesis",
                "segmentation",
                "report",
            ),
            "data": {
                "tiles": "",  # a packed tile set, a folder or s3://..., gs://...; {workdir} stands for the workdir
                "prepare": (),  # commands of data_prep that make it
                "missing": "",  # where the data is to be had, and how it is prepared
                "tile": 512,
                "mpp": 0.0,  # 0: whatever the tile set says
                "groups": (),  # (name, (classes...)) pairs; empty: the classes of the tile set
                "foreground": (),  # classes (after grouping) that the scores are about
                "shares": (),  # of training tiles: (kind, share) pairs, a kind being a class, foreground, glass or rest
                "uniform": "tile",  # or slide, patient: what is drawn equally often within a share
                "shift": 0,  # most pixels that training moves a real tile, both ways, into the margin packed with it
                "rotate": False,  # turns real tiles by any angle, not quarter turns only; needs a margin of 0.21 tiles
                "threads": 8,
                "cache_mb": 2048,  # decoded tiles kept in memory
                "max_damaged": 0,  # records that cannot be read and are skipped before a run stops
            },
            "autoencoder": _autoencoder(),
            "latents": {
                "scale": 1.0,  # 0: measured, each channel by itself
                "tiles": 1024,  # on so many tiles
                # The moments of latents (never a draw) are computed once, kept in the workdir, and
                # trained from: a step spares the autoencoder, which costs as much as two forwards
                # of the denoiser. Worth it where training sees a tile more often than there are
                # views of it; --stage=plan tells both, and the bytes.
                "cache": False,
                "variants": 8,  # symmetries of each tile that are stored; or 1, drawn with each copy
                "copies": 4,  # draws of stain jitter, shift and rotation that are stored; where all are off, it is one
                "dtype": "float16",  # of what is stored; or bfloat16, float32
            },
            "ssl": ssl(),
            "diffusion": _diffusion(),
            "guided": guided(),
            "synthesis": _synthesis(),
            "segmentation": _segmentation(),
            "report": {
                "layouts": 6,
                "styles": 5,
                "intro": "",
                "baseline": "",  # arm that the others are compared with; empty: labelled, or the first
                "ablation": "",  # a key that arms change ("features.timesteps"): a figure over its values
                # What --whole of data_prep makes: its test images are segmented whole, their
                # objects scored; empty: no.
                "whole": "",
            },
        }
    )


def from_published(config: Any) -> None:
    """Starts where the paper starts; changes in place. The first stage is LDM's VQ-f4 as it is, the
    denoiser LDM's of landscapes, the segmenter's encoder one trained on ImageNet. Style encoder and
    style block start fresh."""
    config.autoencoder.init_from = ("ldm-vq-f4",)
    config.autoencoder.train.steps = 0
    config.diffusion.init_from = ("unet=ldm-landscape",)
    config.diffusion.init_partial = True
    config.segmentation.init_from = ("encoder=mit-b2-imagenet",)


def shrink(config: Any) -> None:
    """The same networks small enough for two CPU cores, and what makes short trainings work;
    changes in place.

    v-prediction with zero terminal SNR, because style is colour and the published schedule leaks
    the mean colour; a cosine schedule, because small latents lose their structure at less noise
    than large ones; width at full resolution rather than depth, where a short training learns
    texture; tiles never annotated are trained on too, with an empty layout; the layout dropped
    along with every other style, so that guidance strengthens both; and the same stain jitter on a
    tile and its style tiles, so that layouts do not go with the stains of those who happen to be
    annotated.
    """
    config.dtype = "float32"
    first = config.autoencoder
    first.model.update(
        {
            "kind": "kl",
            "channels": 8,
            "multipliers": (1, 2, 6),
            "res_blocks": 1,
            "latent_channels": 4,
        }
    )
    first.model.attention = False
    first.initial_log_variance = -6.0
    first.splits = {"train": 0.4, "style": 0.6}
    first.stain_jitter = 0.6
    config.latents.update({"scale": 0.0, "tiles": 512})
    diffusion = config.diffusion
    diffusion.unet.update(
        {"base": 64, "multipliers": (1, 1), "res_blocks": 1, "heads": 4, "style_path": "all"}
    )
    diffusion.style.update({"encoder": "conv", "width": 16, "aggregation": "attention", "dim": 64})
    diffusion.style.update({"tiles": 6, "scope": "patient", "drop": 0.15})
    diffusion.drop_layout = 0.5
    diffusion.prediction = "v"
    diffusion.loss = "l2"
    diffusion.schedule.update({"name": "cosine", "zero_terminal_snr": True})
    diffusion.splits = {"train": 0.5, "style": 0.5}
    diffusion.stain_jitter = 0.6
    # With few steps of a cosine schedule, trailing keeps to the style better than uniform_lambda.
    config.synthesis.update(
        {"batch": 32, "sampler": "dpmpp_2m", "steps": 10, "spacing": "trailing"}
    )
    config.synthesis.guidance.update({"scale": 2.0, "layout_interval": (0.0, 0.95)})
    segmenter = config.segmentation
    segmenter.model.update(
        {"widths": (16, 32, 64, 96), "depths": (1, 1, 1, 1), "heads": (1, 2, 4, 4)}
    )
    segmenter.model.update({"norm": "group", "drop_path": 0.0, "imagenet_input": False})
    segmenter.model.decoder = (64, 32, 24, 16, 8)
    segmenter.judge.stain_jitter = 0.8


def short(steps: int, batch: int, lr: float, **changes: object) -> Any:
    """A training of minutes: warmed up, clipped, cosine."""
    quick = {
        "optimizer__warmup": 30,
        "optimizer__schedule": "cosine",
        "optimizer__clip": 1.0,
        "log_every": 10,
    }
    return training(steps, batch, lr, **quick, **changes)
