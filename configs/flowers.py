"""Oxford Flowers-102: flower against background; STEDM's public example outside pathology.

Purpose: 48 classes annotated, 54 lend only their style, 3 (default 20) labeled images a class,
512 px. A class of flowers takes the place of a patient.

Command: python -m stedm_jax.main --config=configs/flowers.py --workdir=runs/flowers
Arms: augmented (default), multipatch, semantic; experiment: multipatch, and all the arms that it
has to beat (configs/base.py, rivals); small: Flowers-17 on two CPU cores.
Data: python -m data_prep.flowers --source=FLOWERS --out=data/flowers
Hardware: as configs/catch.py.
Score: not run by us at this size, none claimed.

Arm small asks whether a style that no labeled class has appears in images of known layouts: yellow
and white flowers are annotated; blue, purple, and red ones lend their style. FLOWERS17 holds
index.csv (data_prep/flowers.py says which columns):

    python -m data_prep.flowers --source=FLOWERS17 --tile=64 --labelled=0 --out=data/flowers17 \
        --splits="train:000,009,010,011,012,014;val:001,013;style:003,004,006,007,016;\
test:002,005,008,015"
    python -m stedm_jax.main --config=configs/flowers.py:small

Hardware and time: two shared CPU cores, about half an hour, 2.1 GB.
Score (docs/results.md): of 760 annotated tiles 0.9 % have colors of blue and purple flowers, of the
synthetic ones 5 % (stedm), 10 % (separate), 26 % (reinhard), and 32 % (recolored), of the style
tiles 39 %; segmenters not run.
"""

from configs.base import from_published, get_base, rivals, short, shrink

MISSING = (
    "The Visual Geometry Group, Oxford, offers Oxford Flowers-102: 102flowers.tgz, "
    "102segmentations.tgz, imagelabels.mat, setid.mat. Unpack them in a folder FLOWERS and run: "
    "python -m data_prep.flowers --source=FLOWERS --out=data/flowers (--download fetches them)"
)

MISSING_17 = (
    "Flowers-17 is offered by the Visual Geometry Group, Oxford; its masks and an index.csv are "
    "yours to add. Put them in a folder FLOWERS17 and run the command in configs/flowers.py"
)

GUIDED = {
    "separate": (
        ("guidance.on", "separate"),
        ("guidance.scale", 3.0),
        ("guidance.layout_scale", 1.5),
        ("guidance.color", 0.0),
    ),
    "recolored": (
        ("guidance.on", "style"),
        ("guidance.scale", 2.0),
        ("recolor", "reinhard"),
    ),
}
"""Of arm small: sets of the generator stedm whose guidance keeps the colors of the style."""


def get_config(arm: str = "augmented"):
    """Arms are ways of choosing style images; "experiment": multipatch among its rivals; "small":
    Flowers-17 on two CPU cores."""
    arm = arm or "augmented"
    if arm == "small":
        return _small()
    styles = {
        "augmented": {"source": "augmented", "tiles": 1},
        "multipatch": {"source": "multipatch", "scope": "patient", "tiles": 10},
        "semantic": {"source": "none", "tiles": 1},
    }
    styles["experiment"] = styles["multipatch"]
    if arm not in styles:
        raise ValueError(
            f"configs/flowers.py has no arm '{arm}'; it has {', '.join(styles)}, small"
        )
    config = get_base()
    from_published(config)
    config.name = f"flowers_{arm}"
    config.title = f"Flowers-102, {arm}"
    config.data.update({"tiles": "data/flowers", "missing": MISSING, "tile": 512})
    _classes(config)
    config.diffusion.style.update(styles[arm])
    config.segmentation.checkpoint = "both"
    config.segmentation.train.eval_every = 1000
    if arm == "experiment":
        rivals(config, real=0.2)
    return config


def _classes(config) -> None:
    config.data.groups = (("background", ("background",)), ("flower", ("flower",)))
    config.data.foreground = ("flower",)


def _small():
    """The denoisers with and without a style, and transfer of color without a denoiser."""
    config = get_base()
    config.name = "flowers_small"
    config.title = "Flowers-17, yellow and white ones annotated"
    config.data.update({"tiles": "data/flowers17", "missing": MISSING_17, "tile": 64})
    _classes(config)
    shrink(config)
    config.autoencoder.model.update({"kind": "patches", "patch": 4})
    config.autoencoder.splits, config.autoencoder.train.steps = {"train": 1.0}, 0
    config.latents.scale = 1.0
    diffusion = config.diffusion
    diffusion.unet.base = 80
    # Jitter would show the denoiser colors that no image has, and so spoil the question.
    diffusion.update({"prediction": "x0", "stain_jitter": 0.0})
    diffusion.train = short(2000, 16, 1e-3, ema__decay=0.995, visual_every=1000)
    config.synthesis.count = 512
    config.segmentation.seeds = (0, 1)
    config.segmentation.train = short(400, 16, 2e-3)
    rivals(config)
    kept = ("reinhard", "semantic", "stedm")
    sets = {name: config.synthesis.sets[name] for name in kept}
    config.synthesis.sets = sets | {
        name: {"generator": "stedm", "changes": changes} for name, changes in GUIDED.items()
    }
    arms = config.segmentation.arms
    own = {name: {"real": 0.5, "stain_jitter": 0.0, "set": name} for name in GUIDED}
    trained = ("labelled", "jitter-strong", *kept)
    config.segmentation.arms = {name: arms[name] for name in trained} | own
    config.report.intro = (
        "Photographs of seventeen kinds of flowers. Only yellow and white kinds are annotated; "
        "blue, purple, and red ones lend their style."
    )
    return config
