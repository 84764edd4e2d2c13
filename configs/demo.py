"""The whole road on a made-up cohort, with known truth.

Purpose: show the idea working, and prove an installation, with nothing downloaded: 19 phantom patients; those with
labels share a narrow range of stains, test patients lie far outside it, and unannotated patients lend their style.
Command: python -m stedm_jax.main --config=configs/demo.py
"""

from configs.base import get_base, training


def get_config(arm: str = ""):
    """Arms: "" is the demo; "tiny" runs every stage in about a minute and shows nothing but that it runs."""
    if arm not in ("", "tiny"):
        raise ValueError(f"configs/demo.py has no arm '{arm}'; it has tiny, and none")
    config = get_base()
    config.name = "demo"
    config.title = "A phantom cohort"
    config.dtype = "float32"
    config.data.tiles = "{workdir}/data/tiles"
    config.data.prepare = (
        "data_prep.phantom --out={workdir}/data/cohort",
        "data_prep.slides --slides={workdir}/data/cohort/slides --annotations={workdir}/data/cohort/annotations"
        " --table={workdir}/data/cohort/cohort.csv --mpp=2.0 --tile=64 --out={workdir}/data/tiles",
    )
    config.data.tile = 64
    config.data.groups = (("other", ("stroma", "necrosis")), ("tumour", ("tumour",)))
    config.data.foreground = ("tumour",)
    config.data.foreground_share = 0.6
    _networks(config)
    config.report.intro = (
        "Nineteen made-up patients. The labelled ones were all stained alike; the test patients were not. "
        "Tiles of further patients, stained in yet other ways and never annotated, lend their style."
    )
    if arm == "tiny":
        _tiny(config)
    return config


def _networks(config) -> None:
    quick = {"optimizer__warmup": 30, "optimizer__schedule": "cosine", "optimizer__clip": 1.0, "log_every": 10}
    first = config.autoencoder
    first.model.update({"kind": "kl", "channels": 8, "multipliers": (1, 2, 6), "res_blocks": 1, "latent_channels": 4})
    first.model.attention = False
    first.splits = {"train": 0.4, "style": 0.6}
    first.train = training(350, 16, 2e-3, visual_every=350, **quick)
    config.latents.update({"scale": 0.0, "tiles": 512})
    diffusion = config.diffusion
    diffusion.unet.update({"base": 32, "multipliers": (1, 2, 4), "res_blocks": 1, "heads": 4, "style_path": "all"})
    diffusion.style.update({"encoder": "conv", "width": 16, "aggregation": "attention", "dim": 64})
    diffusion.style.update({"tiles": 4, "scope": "patient", "drop": 0.1})
    diffusion.prediction = "v"
    diffusion.loss = "l2"
    diffusion.schedule.zero_terminal_snr = True
    diffusion.splits = {"train": 0.5, "style": 0.5}
    diffusion.train = training(1000, 16, 1e-3, ema__decay=0.995, **quick)
    config.synthesis.update({"count": 512, "batch": 32, "sampler": "dpmpp_2m", "steps": 10})
    config.synthesis.spacing = "uniform_lambda"
    config.synthesis.guidance.update({"scale": 1.5, "rescale": 0.7})
    segmenter = config.segmentation
    segmenter.model.update({"widths": (16, 32, 64, 96), "depths": (1, 1, 1, 1), "heads": (1, 2, 4, 4)})
    segmenter.model.decoder = (64, 32, 24, 16, 8)
    segmenter.train = training(130, 16, 2e-3, **quick)


def _tiny(config) -> None:
    config.data.prepare = (
        config.data.prepare[0] + " --slides_size=2048 --patients=6",
        config.data.prepare[1],
    )
    config.autoencoder.train.update({"steps": 6, "batch": 8})
    config.autoencoder.model.channels = 8
    config.latents.tiles = 16
    config.diffusion.train.update({"steps": 6, "batch": 8})
    config.diffusion.unet.base = 16
    config.diffusion.style.tiles = 2
    config.synthesis.update({"count": 16, "batch": 8, "steps": 3})
    config.segmentation.seeds = (0, 1)
    config.segmentation.train.update({"steps": 4, "batch": 8})
    config.report.update({"layouts": 2, "styles": 2})
