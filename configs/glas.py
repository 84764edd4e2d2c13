"""GlaS (Warwick-QU): glands in colon H&E, 165 images of 16 patients, split by patient.

Purpose: STEDM's question on real images, on a small machine. Patients with a pale stain are annotated (train
1, 3, 4, 5;
val 8, 11, 14); unannotated patients (7, 10, 16) lend their style; the other six, mostly stained much darker,
are the test.
The official split of GlaS shares patients between train and test and is not used here.

Data: research only, from the GlaS challenge; put images/, masks/ (0 background, 1 gland) and index.csv
(columns image, mask,
patient; others become tags) in one folder GLAS, then

    python -m data_prep.folder --images=GLAS --masks=GLAS --table=GLAS/index.csv --classes=background,gland \\
        --source_mpp=0.62 --mpp=1.24 --tile=128 --out=data/glas128 \\
        --splits="train:1,3,4,5;val:8,11,14;style:7,10,16;test:2,6,9,12,13,15"

Command: python -m stedm_jax.main --config=configs/glas.py:small
"""

from configs.base import get_base, training

MISSING = (
    "The GlaS images (research use only) come from the GlaS challenge at MICCAI 2015. Put images/, masks/ and an "
    "index.csv (columns image, mask, patient) in a folder and pack it with the data_prep.folder command in the "
    "docstring of configs/glas.py."
)


def get_config(arm: str = "small"):
    """Arm "small": 128 px, small networks, two CPU cores, at most an hour."""
    if arm not in ("", "small"):
        raise ValueError(f"configs/glas.py has no arm '{arm}'; it has small")
    config = get_base()
    config.name = "glas"
    config.title = "GlaS, pale stains annotated, dark ones not"
    config.dtype = "float32"
    config.data.update({"tiles": "data/glas128", "missing": MISSING, "tile": 128, "mpp": 1.24})
    config.data.foreground = ("gland",)
    _first_stage_and_denoiser(config)
    config.synthesis.update({"count": 1024, "batch": 32, "sampler": "dpmpp_2m", "steps": 15})
    config.synthesis.spacing = "uniform_lambda"
    config.segmentation.model.update({"widths": (16, 32, 64, 96), "depths": (1, 1, 1, 1), "heads": (1, 2, 4, 4)})
    config.segmentation.model.decoder = (64, 48, 32, 16, 8)
    config.segmentation.train = training(500, 16, 1e-3, optimizer__warmup=25, optimizer__schedule="cosine")
    config.report.intro = (
        "Colon tissue of sixteen patients. Those annotated are stained pale; most of the test patients are not."
    )
    return config


def _first_stage_and_denoiser(config) -> None:
    model = {"kind": "kl", "channels": 16, "res_blocks": 1, "latent_channels": 4, "attention": False}
    config.autoencoder.model.update(model)
    config.autoencoder.splits = {"train": 0.5, "style": 0.5}
    config.latents.scale = 0.0
    config.autoencoder.train = training(1000, 16, 1e-3, optimizer__warmup=50, optimizer__schedule="cosine")
    diffusion = config.diffusion
    diffusion.unet.update({"base": 32, "multipliers": (1, 2, 4), "heads": 4, "style_path": "all"})
    diffusion.style.update({"encoder": "conv", "width": 16, "aggregation": "attention", "dim": 64})
    diffusion.style.update({"tiles": 4, "scope": "patient", "drop": 0.1})
    diffusion.prediction = "v"
    diffusion.loss = "l2"
    diffusion.schedule.zero_terminal_snr = True
    diffusion.splits = {"train": 0.5, "style": 0.5}
    diffusion.train = training(1500, 16, 1e-3, ema__decay=0.999, optimizer__warmup=50, optimizer__schedule="cosine")
