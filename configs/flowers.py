"""Oxford Flowers-102: flower against background; STEDM's public example outside pathology.

Purpose: 48 classes annotated, 54 lend only their style, 3 (default 20) labeled images a class,
512 px. A class of flowers takes the place of a patient.

Command: python -m stedm_jax.main --config=configs/flowers.py --workdir=runs/flowers
Arms: augmented (default), multipatch, semantic; experiment: multipatch, and all the arms that it
has to beat (configs/base.py, rivals).
Data: python -m data_prep.flowers --source=FLOWERS --out=data/flowers
Hardware: as configs/catch.py.
Score: not run by us at this size, none claimed.
"""

from configs.base import from_published, get_base, rivals

MISSING = (
    "The Visual Geometry Group, Oxford, offers Oxford Flowers-102: 102flowers.tgz, "
    "102segmentations.tgz, imagelabels.mat, setid.mat. Unpack them in a folder FLOWERS and run: "
    "python -m data_prep.flowers --source=FLOWERS --out=data/flowers (--download fetches them)"
)


def get_config(arm: str = "augmented"):
    """Arms are ways of choosing style images; "experiment": multipatch among its rivals."""
    arm = arm or "augmented"
    styles = {
        "augmented": {"source": "augmented", "tiles": 1},
        "multipatch": {"source": "multipatch", "scope": "patient", "tiles": 10},
        "semantic": {"source": "none", "tiles": 1},
    }
    styles["experiment"] = styles["multipatch"]
    if arm not in styles:
        raise ValueError(f"configs/flowers.py has no arm '{arm}'; it has {', '.join(styles)}")
    config = get_base()
    from_published(config)
    config.name = f"flowers_{arm}"
    config.title = f"Flowers-102, {arm}"
    config.data.update({"tiles": "data/flowers", "missing": MISSING, "tile": 512})
    config.data.groups = (("background", ("background",)), ("flower", ("flower",)))
    config.data.foreground = ("flower",)
    config.diffusion.style.update(styles[arm])
    config.segmentation.checkpoint = "both"
    config.segmentation.train.eval_every = 1000
    if arm == "experiment":
        rivals(config, real=0.2)
    return config
