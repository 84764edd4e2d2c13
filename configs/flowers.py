"""Flowers: Oxford Flowers-102, flower against background; STEDM's public example outside pathology.

Purpose: 48 classes annotated, 54 lend only their style, 3 (default 20) labelled images a class, 512 px. A class of
flowers takes the place of a patient.
Command: python -m stedm_jax.main --config=configs/flowers.py --workdir=runs/flowers
Arms: augmented (default), multipatch, semantic.
Hardware: as configs/catch.py. Not run by us at this size; no score is claimed.
"""

from configs.base import from_published, get_base

MISSING = (
    "Oxford Flowers-102 (images and segmentations) is to be had from the Visual Geometry Group, Oxford. Write "
    "masks (0 background, 1 flower; "
    "the published segmentations have a pure blue background), and a table with the columns image, mask, "
    "patient (the class), split; "
    "then run: python -m data_prep.folder --images=FLOWERS --masks=FLOWERS --table=flowers.csv "
    "--classes=background,flower --mpp=1 --fit "
    "--tile=512 --out=data/flowers"
)


def get_config(arm: str = "augmented"):
    """Arms are ways of choosing style images."""
    arm = arm or "augmented"
    styles = {
        "augmented": {"source": "augmented", "tiles": 1},
        "multipatch": {"source": "multipatch", "scope": "patient", "tiles": 10},
        "semantic": {"source": "none", "tiles": 1},
    }
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
    return config
