"""Every stage on a made-up cohort, whose truth is known.

Purpose: shows the idea working, and proves an installation, with nothing downloaded: 19 phantom
patients; those with labels share a narrow range of stains, test patients lie far outside it, and
unannotated patients lend their style.

Command: python -m stedm_jax.main --config=configs/demo.py
Arms: none, and tiny.
Hardware and time: two shared CPU cores, 7 to 40 minutes from nothing, 2.5 GB.
Score (docs/results.md): IoU of the test patients 0.567 labelled, 0.705 with strong stain jitter,
0.707 with transferred colors, 0.732 with synthetic tiles, 0.800 labelled with test patients in the
stain of the labeled ones; layout IoU 0.71, the judge on the same layouts' real tiles 0.62.
"""

from configs.base import get_base, normalized, short, shrink


def get_config(arm: str = ""):
    """Arms: "" is the demo; "tiny" runs every stage in about a minute, the training of
    an autoencoder among them, and only proves that it runs."""
    if arm not in ("", "tiny"):
        raise ValueError(f"configs/demo.py has no arm '{arm}'; it has tiny, or none")
    config = get_base()
    config.name = "demo"
    config.title = "A phantom cohort"
    config.data.tiles = "{workdir}/data/tiles"
    config.data.prepare = (
        "data_prep.phantom --out={workdir}/data/cohort",
        "data_prep.slides --slides={workdir}/data/cohort/slides "
        "--annotations={workdir}/data/cohort/annotations --table={workdir}/data/cohort/cohort.csv "
        "--mpp=2.0 --tile=64 --min_tissue=0.9 --out={workdir}/data/tiles",
    )
    config.data.tile = 64
    config.data.groups = (("other", ("stroma", "necrosis")), ("tumour", ("tumour",)))
    config.data.foreground = ("tumour",)
    config.data.shares = (("tumour", 0.6), ("rest", 0.4))
    shrink(config)
    config.autoencoder.crop = 32
    config.autoencoder.train = short(700, 16, 2e-3, visual_every=700)
    config.diffusion.train = short(1500, 16, 1e-3, ema__decay=0.995)
    config.synthesis.count = 512
    config.segmentation.train = short(120, 16, 2e-3)
    config.report.intro = (
        "Nineteen made-up patients. The labelled ones were all stained alike; the test patients "
        "were not. Tiles of further patients, stained in yet other ways and never annotated, lend "
        "their style."
    )
    if arm == "tiny":
        _tiny(config)
    else:
        _exact(config)
        _with_rivals(config)
    return config


def _exact(config) -> None:
    """Latents that lose no detail and leave nothing to train below the denoiser."""
    config.autoencoder.model.update({"kind": "patches", "patch": 4})
    config.autoencoder.train.steps = 0
    config.latents.scale = 1.0
    config.diffusion.prediction = "x0"


def _with_rivals(config) -> None:
    """The cheapest ways to the same end: stain jitter, transfer of color without a network, and
    test patients brought to the stain of the labeled tiles."""
    config.synthesis.sets = {
        "synthetic": {"generator": "stedm"},
        "reinhard": {"method": "reinhard"},
    }
    config.segmentation.arms = {
        "labelled": {"real": 1.0, "stain_jitter": 0.0},
        "jitter-medium": {"real": 1.0, "stain_jitter": 0.4},
        "jitter-strong": {"real": 1.0, "stain_jitter": 0.8},
        "reinhard": {"real": 0.2, "stain_jitter": 0.0, "set": "reinhard"},
        "labelled+synthetic": {"real": 0.2, "stain_jitter": 0.0, "set": "synthetic"},
        **normalized("labelled", "reinhard", "labelled+synthetic"),
    }


def _tiny(config) -> None:
    config.report.intro = "Six made-up patients and a training of seconds, which shows nothing."
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
