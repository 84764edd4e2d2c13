"""HER2: breast cancer immunohistochemistry, four scores; STEDM's private data set.

Purpose: the paper's settings, tumor against background, for anyone with slides of this kind: 24
training slides (six a score), 8 validation, 8 test, half resolution, half of the tiles with tumor.

Command: python -m stedm_jax.main --config=configs/her2.py --workdir=runs/her2
Arms: multipatch (default), nearby, augmented, semantic, experiment, as in configs/catch.py.
Data: python -m data_prep.her2 --source=HER2 --out=data/her2 (the layout of the folder:
data_prep/her2.py).
Hardware: as configs/catch.py.
Score: not run by us, as the data are private; none claimed.
"""

from configs.catch import get_config as catch

MISSING = (
    "The HER2 slides of the STEDM paper are private. With slides of your own: annotate regions of "
    "interest and, in them, tumor by score (QuPath, ImageScope, ...), write table.csv with the "
    "columns slide, patient, split, score, put all in a folder HER2 and run: "
    "python -m data_prep.her2 --source=HER2 --out=data/her2"
)
GROUPS = (
    ("background", ("background",)),
    ("tumour", ("score_0", "score_1", "score_2", "score_3", "LCIS_DCIS")),
)


def get_config(arm: str = "multipatch"):
    """Arms: those of configs/catch.py."""
    config = catch(arm)
    config.name = config.name.replace("catch", "her2")
    config.title = config.title.replace("CATCH", "HER2")
    config.data.update({"tiles": "data/her2", "missing": MISSING})
    config.data.groups = GROUPS
    config.data.shares = (("tumour", 0.5), ("rest", 0.5))
    config.data.uniform = "slide"
    config.synthesis.augment_layouts = 0.0  # as published it is known of CATCH alone
    return config
