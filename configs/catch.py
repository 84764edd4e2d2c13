"""CATCH: 350 public slides of canine skin tumors, seven subtypes; STEDM's main experiment.

Purpose: 512 px tiles of level 0 downsampled 8x, tumor against the rest, 6 labeled slides a subtype;
the other training slides lend their style. Score of full supervision: tumor Jaccard 0.904 (Wilm et
al. 2022).

Command: python -m stedm_jax.main --config=configs/catch.py --workdir=runs/catch
Arms: multipatch (default), nearby, augmented, semantic (no style: the paper's diffusion baseline),
for example --config=configs/catch.py:nearby; experiment: multipatch, and all the arms that it has
to beat (configs/base.py, rivals); published: multipatch with a checkpoint of the released code,
from which it makes the set as that code does (as_published_code) and trains the segmenters;
nothing else is trained:
python -m stedm_jax.convert stedm FILE --out=weights/stedm
python -m stedm_jax.main --config=configs/catch.py:published
with what the conversion says of the style, as --config.diffusion.style.aggregation=max.
Data: python -m data_prep.catch --source=CATCH --out=data/catch
(42 annotated slides, 203 of style, 35 and 70 of validation and test; what no polygon covers is
background within the bounding box of a slide's polygons, as in the authors' code).
Weights: starts from ldm-vq-f4, ldm-landscape and mit-b2-imagenet, as the paper does; python -m
stedm_jax.convert list says where to get them, python -m stedm_jax.convert NAME FILE
--out=weights/NAME prepares each. The released code starts from the last weights of ldm-landscape,
not from their averages: convert it with --weights=raw for that. To start from nothing:
--config.autoencoder.init_from=() --config.autoencoder.train.steps=100000
--config.diffusion.init_from=() --config.segmentation.init_from=()
Hardware: 8 accelerators of 40 GB or more; the published pipeline costs about 5 EFLOP for sampling
alone.
Score: not run by us at this size, none claimed.
"""

from configs.base import from_published, get_base, rivals

MISSING = (
    "The Cancer Imaging Archive offers CATCH (CC BY 4.0) under this name: 350 SVS slides and their "
    "annotations, CATCH.json; the split, datasets.csv, is in the project "
    "DeepMicroscopy/CanineCutaneousTumors. Put all in a folder CATCH and run: "
    "python -m data_prep.catch --source=CATCH --out=data/catch"
)
TUMOURS = (
    "Trichoblastoma",
    "Mast Cell Tumor",
    "Melanoma",
    "PNST",
    "Plasmacytoma",
    "SCC",
    "Histiocytoma",
)
REST = ("Dermis", "Epidermis", "Subcutis", "Bone", "Cartilage", "Inflamm/Necrosis")


def get_config(arm: str = "multipatch"):
    """Arms are the paper's ways of choosing style tiles; "experiment": multipatch among its rivals;
    "published": multipatch, of a denoiser that was trained elsewhere."""
    arm = arm or "multipatch"
    styles = {
        "multipatch": {"source": "multipatch", "tiles": 10},
        "nearby": {"source": "nearby", "tiles": 1},
        "augmented": {"source": "augmented", "tiles": 1},
        "semantic": {"source": "none", "tiles": 1},
    }
    styles["experiment"] = styles["published"] = styles["multipatch"]
    if arm not in styles:
        raise ValueError(f"configs/catch.py has no arm '{arm}'; it has {', '.join(styles)}")
    config = get_base()
    from_published(config)
    config.name = f"catch_{arm}"
    config.title = f"CATCH, {arm}"
    config.data.update({"tiles": "data/catch", "missing": MISSING, "tile": 512})
    config.data.groups = (("background", ("background", *REST)), ("tumour", TUMOURS))
    config.data.foreground = ("tumour",)
    config.data.shares = (("tumour", 0.5), ("glass", 0.1), ("rest", 0.4))
    config.data.cache_mb = 16_000
    config.diffusion.style.update(styles[arm])
    # With it, and attention in parts, four images a chip need 12.0 of 16.9 GB of a TPU v5e;
    # without, 19.3.
    config.diffusion.style.remat = True
    config.segmentation.update({"border": 64, "border_scored": 128, "checkpoint": "both"})
    config.segmentation.train.eval_every = 1000
    if arm == "published":
        config.autoencoder.init_from = ("stedm/autoencoder",)
        config.diffusion.update({"init_from": ("stedm/generator",), "init_partial": False})
        config.diffusion.train.steps = 0
        config.diffusion.style.as_published_code = True
        config.synthesis.update({"as_published_code": True, "augment_layouts": 0.5})
    if arm == "experiment":
        rivals(config, real=0.2)
    return config
