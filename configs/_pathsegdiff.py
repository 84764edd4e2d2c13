"""The sections of configs/base.py that PathSegDiff adds: the encoder that learns without labels,
the denoiser that it guides, and what a head reads of them."""

from typing import Any

from ml_collections import ConfigDict

from configs._training import start, training


def ssl() -> Any:
    """DINO (Caron et al., 2021) at the size of HIPT's ViT-S/16; runs where `stages` names ssl."""
    return ConfigDict(
        {
            **start(),
            "model": {
                "kind": "vit",  # of these sizes, or a named one: vit_small_patch16, uni2_h ... (models/vit_sizes.py)
                "width": 384,
                "depth": 12,
                "heads": 6,
                "patch": 16,
            },
            "head": {"hidden": 2048, "bottleneck": 256, "prototypes": 65_536},
            "crops": {
                "global_size": 224,  # side in pixels of the two that the teacher sees too
                "local_size": 96,
                "locals": 8,  # number of local crops
                "global_scale": (0.4, 1.0),  # share of the tile's area
                "local_scale": (0.1, 0.4),
            },
            "augment": {
                "stain": 0.3,  # strength of the jitter of stains, each crop by itself
                "colour": 0.2,  # of brightness, contrast and saturation
                "grey": 0.1,  # share of crops without colour
                "blur": (
                    0.5,
                    0.1,
                    0.3,
                ),  # share of blurred crops: first global, second global, local
                "blur_sigma": 2.0,  # pixels, at most
                "solarise": 0.0,  # share of second global crops; DINO on photographs: 0.2
            },
            "student_temperature": 0.1,
            "teacher_temperature": (0.04, 0.07),  # first and last
            "teacher_warmup": 30_000,  # steps between the two
            "momentum": 0.996,  # of the teacher, at the start; 1 at the end
            "centre_momentum": 0.9,
            "freeze_last": 1000,  # steps in which the prototypes stay as they are
            "splits": {"train": 0.5, "style": 0.5},
            "probe": {
                "tiles": 4096,  # most annotated tiles of each split
                "protocol": "val",  # train on patients of train, score those of val; or leave_one_out, of both
                "neighbours": 20,
                "temperature": 0.07,
            },
            # Without micro-batches (accumulate) and average (ema): the teacher follows each batch
            # as a whole.
            "train": training(
                100_000,
                256,
                5e-4,
                optimizer__weight_decay=0.04,
                optimizer__weight_decay_end=0.4,
                optimizer__clip=3.0,
                optimizer__warmup=10_000,
                optimizer__schedule="cosine",
                eval_every=5000,
            ),
        }
    )


def guided() -> Any:
    """LID's model (Graikos et al., CVPR 2024) of tiles of 256 px, PathSegDiff's base; runs where
    `stages` names it."""
    return ConfigDict(
        {
            **start(),
            "unet": {
                "base": 192,
                "multipliers": (1, 2, 3, 5),
                "res_blocks": 2,
                "attention_at": (2, 4, 8),
                "heads": 1,
                "attention": "transformer",
                "context_dim": 512,
                "style_path": "middle",  # says nothing here, as there is no style
                "dropout": 0.0,
                "remat": False,
            },
            "guide": {
                "source": "ssl",  # of the same run; or vit:NAME (hipt_vit256, uni2_h, ...), or none
                "weights": "",  # of a vit:NAME: a converted folder or a name of the registry
                "tokens": (
                    "patch",
                ),  # or patch, region: the field around a tile too, from the margin packed with it
                # Length of the region embedding where published weights have one of an encoder that
                # is not at hand: the zero vector stands for it then, as LID does; 0: the guide
                # makes it from the field around a tile.
                "region_width": 0,
                "dim": 512,  # length of a token
                "normalise": True,  # embeddings to length 1, before the linear map
                "drop": 0.1,  # of each token by itself
            },
            "schedule": {
                "name": "ldm_linear",
                "steps": 1000,
                "beta_start": 0.0015,
                "beta_end": 0.0195,
                "zero_terminal_snr": False,
            },
            "prediction": "eps",
            "loss": "l2",
            "weighting": "uniform",
            # Latents and embeddings are computed once and kept in the workdir, with
            # latents.variants, copies and dtype, for this stage and for the heads on its features.
            "cache": False,
            "splits": {"train": 0.5, "style": 0.5},
            "stain_jitter": 0.0,
            "train": training(100_000, 100, 1e-4, optimizer__warmup=1000),  # steps: not found
        }
    )


def features() -> Any:
    """Of the networks ldm, vit, concat of an arm: what PathSegDiff's head reads
    (stedm_jax/stages/arms.py)."""
    return ConfigDict(
        {
            "source": "ldm",  # features of the guided denoiser; vit: patch tokens of its guide; concat: both
            "weights": "trained",  # or random: a denoiser that has learnt nothing
            "timesteps": (50,),  # one forward for each
            "blocks": (
                "output_blocks/2",
                "output_blocks/5",
                "output_blocks/8",
            ),  # at 16, 32 and 64 px
            "guided": True,  # False: the guide's tokens are those of the zero vector
            "scales": (
                1.0,
            ),  # magnifications, relative to the tiles, of which all features are taken
            "seed": 0,  # of the one noise that all tiles share
        }
    )


def head() -> Any:
    """The head on features."""
    return ConfigDict(
        {
            "kind": "convolution",  # or linear: of each position by itself, which shows what the features alone hold
            "width": 128,  # of convolution
            "norm": "batch",  # or, of convolution, group
            "tune": False,  # the denoiser is trained along
        }
    )
