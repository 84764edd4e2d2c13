"""HER2: breast cancer immunohistochemistry, four scores, tumour against background; STEDM's private data set.

Purpose: the paper's settings for anyone with slides of their own of this kind: 24 training slides (six a score),
8 validation, 8 test, half resolution, half of the tiles with tumour.
Command: python -m stedm_jax.main --config=configs/her2.py --workdir=runs/her2
Arms: multipatch (default), nearby, augmented, semantic.
Hardware: as configs/catch.py. Not run by us: the data are private; no score is claimed.
"""

from configs.base import get_base
from configs.catch import get_config as catch

MISSING = (
    "The HER2 slides of the STEDM paper are private. With slides of your own: annotate tumour and background in "
    "QuPath, export GeoJSON, "
    "write a table with the columns slide, patient, split, and run: python -m data_prep.slides --slides=HER2 "
    "--annotations=HER2/annotations "
    "--table=her2.csv --mpp=0.5 --tile=512 --classes=background,score_0,score_1,score_2,score_3,LCIS_DCIS "
    "--out=data/her2"
)
GROUPS = (
    ("background", ("background",)),
    ("tumour", ("score_0", "score_1", "score_2", "score_3", "LCIS_DCIS")),
)


def get_config(arm: str = "multipatch"):
    """Arms are the paper's ways of choosing style tiles."""
    config = get_base()
    config.update(catch(arm))
    config.name = config.name.replace("catch", "her2")
    config.title = config.title.replace("CATCH", "HER2")
    config.data.update({"tiles": "data/her2", "missing": MISSING})
    config.data.groups = GROUPS
    return config
