"""BCSS: 151 regions of breast cancer (TCGA) at 20x; PathSegDiff and its baselines at full size.

Purpose: a head on features of a guided denoiser of breast tissue, compared with the guide alone,
both, a denoiser that has learned nothing, ResNet18-UNet and VGG16-FCN8s, on held-out hospitals.
Published scores, for a grouping and a split that were not found: accuracy 0.826, Dice 0.781
(VGG16-FCN8 0.786 / 0.567, ResNet18-UNet 0.751 / 0.529).

Command: python -m stedm_jax.main --config=configs/bcss.py --workdir=runs/bcss
Arms: published (default) starts from Large-Image-Diffusion's denoiser and VQ-f4 and HIPT's ViT-S/16
and trains heads alone; own (--config=configs/bcss.py:own) trains encoder and denoiser itself, on
the training regions.
Data: python -m data_prep.bcss --source=BCSS --mpp=0.5 --tile=256 --out=data/bcss
Weights: python -m stedm_jax.convert list says where to get lid-tcga-brca-guided,
lid-tcga-brca-vq-f4, hipt-vit256, resnet18-imagenet and vgg16-imagenet; python -m stedm_jax.convert
NAME FILE --out=weights/NAME prepares each.
Hardware and time: published needs one accelerator of 40 GB and some hours; own needs several
accelerators and days.
Score: not run by us, none claimed. The paper's optimizer, steps and crops were not found; those
here are a choice.
"""

from configs.base import get_base, training

MISSING = (
    "BCSS (CC0) is linked from the project PathologyDataScience/BCSS on GitHub. Put its images and "
    "masks in a folder BCSS and run: python -m data_prep.bcss --source=BCSS --mpp=0.5 --tile=256 "
    "--out=data/bcss"
)
HEADS = ("ldm", "random-ldm", "vit", "concat")


def get_config(arm: str = "published"):
    """Arms: where the denoiser and its guide come from."""
    arm = arm or "published"
    if arm not in ("published", "own"):
        raise ValueError(f"configs/bcss.py has no arm '{arm}'; it has published, own")
    config = get_base()
    config.name = f"bcss_{arm}"
    config.title = f"BCSS, features of a guided denoiser ({arm})"
    config.data.update({"tiles": "data/bcss", "missing": MISSING, "tile": 256, "mpp": 0.5})
    names = ("tumour", "stroma", "inflammatory", "necrosis", "other")
    config.data.groups = tuple((name, (name,)) for name in names)
    config.data.foreground = names[:4]
    config.data.cache_mb = 16_000
    config.autoencoder.init_from = ("lid-tcga-brca-vq-f4",)
    config.autoencoder.train.steps = 0
    if arm == "published":
        config.stages = ("data", "autoencoder", "latents", "guided", "segmentation", "report")
        guided = config.guided
        guided.init_from, guided.train.steps = ("lid-tcga-brca-guided",), 0
        guided.guide.update({"source": "vit:hipt_vit256", "weights": "hipt-vit256"})
        guided.guide.update({"tokens": ("patch", "region"), "region_width": 768})
        guided.splits = {"train": 1.0}
    else:
        config.stages = (
            "data",
            "autoencoder",
            "latents",
            "ssl",
            "guided",
            "segmentation",
            "report",
        )
        config.ssl.splits = config.guided.splits = {"train": 1.0}
        config.guided.unet.remat = True
    config.report.baseline = "ldm"
    segmentation = config.segmentation
    segmentation.ce_weight = segmentation.dice_weight = 1.0
    segmentation.train = training(
        20_000, 32, 3e-4, optimizer__warmup=500, optimizer__schedule="cosine"
    )
    segmentation.arms = {
        name: {"real": 1.0, "stain_jitter": 0.0, "network": name} for name in HEADS
    } | {
        "resnet18-unet": _baseline("resnet18-unet", ("encoder=resnet18-imagenet",), False),
        "vgg16-fcn8s": _baseline("vgg16-fcn8s", ("vgg16-imagenet",), True),
    }
    return config


def _baseline(network, source, partial):
    changes = (("init_from", source), ("init_partial", partial))
    return {"real": 1.0, "stain_jitter": 0.0, "network": network, "changes": changes}
