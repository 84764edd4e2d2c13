"""GlaS (Warwick-QU): glands in colon H&E, 165 images of 16 patients, split by patient.

Purpose: STEDM's question on real images, on a small machine. Patients with a pale stain are
annotated (train 1, 3, 4, 5; val 8, 11, 14); unannotated patients (7, 10, 16) lend their style; the
other six, mostly stained much darker, are the test. The official split of GlaS shares patients
between train and test; only arm official uses it.

Data: research only, from the GlaS challenge; the folder GLAS is that of the challenge (BMP files
and Grade.csv):

    python -m data_prep.glas --source=GLAS --out=data/glas128

Command: python -m stedm_jax.main --config=configs/glas.py:small
Hardware and time: two shared CPU cores, 26 minutes, 2.1 GB.
Score (docs/results.md): IoU of the test patients 0.633 labelled, 0.536 with synthetic tiles: after
ten minutes of training these do more harm than good; style correlation 0.77, layout IoU 0.34, the
judge on real tiles 0.56.

What helps (arm experiment): three draws each of four and of one annotated patient, two seeds of the
denoiser and two of the segmenter, all crossed; the ways to use unannotated patients that need no
denoiser beside the ones that do. The tiles have the labels of all patients, and a draw hides those
of the three who lend their style from all but arm all-labelled. --stage=plan prints the hours,
--cells=1/2 makes a share. Arm denoisers: the published denoiser, one that knows no style, and one
change at a time of ours, on one draw each:

    python -m data_prep.glas --source=GLAS --mpp=2.48 --tile=64 --stride=32 \
        --splits="train:1,3,4,5,7,10,16;val:8,11,14;test:2,6,9,12,13,15" --out=data/glas64
    python -m stedm_jax.main --config=configs/glas.py:experiment --stage=plan
    python -m stedm_jax.main --config=configs/glas.py:experiment
    python -m stedm_jax.main --config=configs/glas.py:denoisers

PathSegDiff (arm pathsegdiff): the same patients, tiles that show as much tissue in half the pixels,
brought to one stain, so that features and not stains are compared; and, once that has run, what its
features depend on:

    python -m data_prep.glas --source=GLAS --mpp=2.48 --tile=64 --stride=32 \
        --stain_norm=reinhard --out=data/glas64-reinhard
    python -m stedm_jax.main --config=configs/glas.py:pathsegdiff
    python -m stedm_jax.main --config=configs/glas.py:ablate_timestep

and likewise ablate_blocks, ablate_guide, ablate_magnification.

The challenge's own protocol (arm official): the same networks, trained on its training images alone
(15 % of the people among them are kept for validation; --val=0.15), and its scores of objects on
the whole images of test A and test B at their own resolution, which are comparable with published
ones and no evidence about new patients:

    python -m data_prep.glas --source=GLAS --split=official --whole --mpp=2.48 --tile=64 \
        --stride=32 --stain_norm=reinhard --out=data/glas64-official
    python -m stedm_jax.main --config=configs/glas.py:official

Time on two shared CPU cores: pathsegdiff 62 minutes, official 105 beside other jobs, an ablation
five.
Score (docs/results.md): IoU of tiles 0.692 (pathsegdiff, ldm; random features 0.657) and 0.643
(official; 0.609), object Dice of test A 0.454 (0.338).
"""

from configs.base import FROM_TILE, get_base, normalized, rivals, short, shrink

MISSING = (
    "The GlaS images (research use only) come from the GlaS challenge at MICCAI 2015. Unpack them "
    "in a folder GLAS and run: python -m data_prep.glas --source=GLAS --out=data/glas128"
)


BLOCKS = ("middle_block", "output_blocks/2", "output_blocks/3", "output_blocks/5")
TILES_64 = "--mpp=2.48 --tile=64 --stride=32 --stain_norm=reinhard"
ABLATIONS = {
    "ablate_timestep": ("features.timesteps", ((0,), (50,), (150,), (300,), (600,))),
    "ablate_blocks": ("features.blocks", (*((block,) for block in BLOCKS), BLOCKS)),
    "ablate_guide": ("features.guided", (True, False)),
    "ablate_magnification": ("features.scales", ((1.0,), (0.5,), (1.0, 0.5))),
}
"""Arm of this file -> key of config.segmentation, and its values."""
STYLE = ("7", "10", "16")
DRAWS = {
    name: {"train": train, "val": val, "style": STYLE}
    for name, train, val in (
        ("four-a", ("1", "3", "4", "5"), ("8", "11", "14")),
        ("four-b", ("3", "4", "5", "11"), ("1", "8", "14")),
        ("four-c", ("1", "4", "5", "11"), ("3", "8", "14")),
        ("one-a", ("1",), ("8", "11", "14")),
        ("one-b", ("3",), ("8", "11", "14")),
        ("one-c", ("4",), ("8", "11", "14")),
    )
}
"""Of arm experiment: who is annotated. The style and the test patients are always the same."""
TRANSFERS = ("randstainna", "reinhard", "macenko", "latent_adain", "pseudo_labels")
"""Sets without a denoiser."""
RECOLORED = {"generator": "informed", "changes": (("recolor", "reinhard"),)}
MIXED = {"real": 0.5, "stain_jitter": 0.0}
BOTH = MIXED | {"sets": (("reinhard", 1.0), ("recolored", 1.0))}
OURS = ("recolored", "transfer+recolored", "transfer+recolored-believed")
ARMS = ("small", "experiment", "denoisers", "pathsegdiff", "official", *ABLATIONS)
HEADS = ("ldm", "random-ldm", "vit", "concat")
LINEAR = (("head.kind", "linear"),)
BASELINES = {
    "resnet18-unet": (),
    "vgg16-fcn8s": (("model.fcn8s.widths", (32, 64, 128, 128, 128)), ("model.fcn8s.hidden", 512)),
    "dcan": (("model.dcan.widths", (32, 64, 128, 128, 128)), ("model.dcan.hidden", 256)),
}
"""Arm -> what makes it small enough for two cores. The ResNet18 of the first has its published
widths; its decoder and norms are small already (shrink)."""


MISSING_64 = MISSING.replace("--out=data/glas128", f"{TILES_64} --out=data/glas64-reinhard")
SPLITS = "train:1,3,4,5,7,10,16;val:8,11,14;test:2,6,9,12,13,15"
MISSING_PLAIN = MISSING.replace(
    "--out=data/glas128", f'--mpp=2.48 --tile=64 --stride=32 --splits="{SPLITS}" --out=data/glas64'
)
OFFICIAL = "data/glas64-official"
MISSING_OFFICIAL = MISSING.replace(
    "--out=data/glas128", f"--split=official --whole {TILES_64} --out={OFFICIAL}"
)


def get_config(arm: str = "small"):
    """Arms: "small", STEDM; "experiment", the best of STEDM among its rivals; "denoisers", its
    parts; "pathsegdiff", PathSegDiff and its baselines; "official", the same on the challenge's
    split, and its scores of whole images; "ablate_...", linear heads alone, after "pathsegdiff" has
    run in its usual workdir."""
    arm = arm or "small"
    if arm not in ARMS:
        raise ValueError(f"configs/glas.py has no arm '{arm}'; it has {', '.join(ARMS)}")
    if arm in ABLATIONS:
        return _ablation(arm)
    made_by = {"small": _small, "experiment": _experiment, "denoisers": _denoisers}
    return (made_by | {"pathsegdiff": _pathsegdiff, "official": _official})[arm]()


def _glas():
    """The data, and networks for two CPU cores."""
    config = get_base()
    config.data.update({"tiles": "data/glas128", "missing": MISSING, "tile": 128, "mpp": 1.24})
    config.data.groups = (("background", ("stroma",)), ("gland", ("gland",)))
    config.data.foreground = ("gland",)
    shrink(config)
    config.autoencoder.crop = 64
    config.autoencoder.train = short(400, 16, 2e-3, visual_every=400)
    return config


def _small():
    config = _glas()
    config.name = "glas"
    config.title = "GlaS, pale stains annotated, dark ones not"
    config.diffusion.train = short(600, 12, 2e-3, ema__decay=0.995, visual_every=600)
    config.synthesis.count = 256
    config.segmentation.seeds = (0, 1)
    config.segmentation.train = short(160, 16, 2e-3)
    config.report.intro = (
        "Colon tissue of sixteen patients. Those annotated are stained pale; most of the test "
        "patients are not."
    )
    return config


def _grid():
    """What the arms experiment and denoisers share."""
    config = _glas()
    config.data.update({"tiles": "data/glas64", "missing": MISSING_PLAIN, "tile": 64, "mpp": 2.48})
    # Nothing is lost and nothing has to be learned: docs/results.md, "First stage".
    config.autoencoder.model.update({"kind": "patches", "patch": 4})
    config.autoencoder.splits, config.autoencoder.train.steps = {"train": 1.0}, 0
    config.latents.scale = 1.0
    diffusion = config.diffusion
    diffusion.unet.base = 80
    diffusion.update({"prediction": "x0", "drop_layout": 0.1})
    diffusion.style.drop = 0.1
    diffusion.train = short(2000, 16, 1e-3, ema__decay=0.995, visual_every=1000)
    config.synthesis.count = 1024
    segmentation = config.segmentation
    segmentation.model.widths = (24, 48, 96, 128)
    segmentation.seeds = (0, 1)
    segmentation.train = short(800, 16, 2e-3)
    rivals(config, all_labelled=True)
    config.diffusion.generators["informed"] = {"changes": (("judge.layouts", 0.5),)}
    config.synthesis.sets["recolored"] = RECOLORED
    config.segmentation.arms["recolored"] = MIXED | {"set": "recolored"}
    config.segmentation.arms["transfer+recolored"] = BOTH
    config.segmentation.arms["transfer+recolored-believed"] = BOTH | {"reject": 1.25}
    return config


def _experiment():
    """What goes beyond the published method: layouts in the stains of style patients are learned
    from the judge, samples are given the exact colors of their style tiles, new content is mixed
    with transferred colors, pixels that the judge does not believe are left out."""
    config = _grid()
    config.name = "glas_experiment"
    config.title = "GlaS, what unannotated patients are worth"
    config.grid.draws = DRAWS
    config.grid.generator_seeds = (0, 1)
    config.diffusion.generators = {"informed": config.diffusion.generators["informed"]}
    sets, arms = config.synthesis.sets, config.segmentation.arms
    config.synthesis.sets = {name: sets[name] for name in (*TRANSFERS, "recolored")}
    bounds = ("labelled", "all-labelled")
    trained = (*bounds, "jitter-medium", "jitter-strong", *TRANSFERS, *OURS)
    again = normalized("labelled", "all-labelled", "jitter-strong", "reinhard", *OURS)
    config.segmentation.arms = {name: arms[name] for name in trained} | again
    config.segmentation.arms["auto"] = {
        "real": 1.0,
        "stain_jitter": 0.0,
        "choose": ("labelled", "jitter-strong", "reinhard", "recolored", "transfer+recolored"),
        "choose_over": "grid",
    }
    ours = (*OURS, *(f"{name}-normalized" for name in OURS))
    known = {*ours, *bounds, "all-labelled-normalized", "auto"}
    config.report.ours = ours
    config.report.rivals = tuple(name for name in config.segmentation.arms if name not in known)
    config.report.intro = (
        "Colon tissue of sixteen patients, split by patient. Four of them, or one, are annotated; "
        "three others lend their style. Every arm is scored on the same six test patients, most of "
        "whom are stained darker."
    )
    return config


def _denoisers():
    """One draw of four and one of one annotated patient, one generator seed: every use of a
    denoiser, and one change at a time of the arm recolored."""
    config = _grid()
    config.name = "glas_denoisers"
    config.title = "GlaS, which parts of a denoiser's arm count"
    config.grid.draws = {name: DRAWS[name] for name in ("four-a", "one-a")}
    config.grid.generator_seeds = (0,)
    sets, arms = config.synthesis.sets, config.segmentation.arms
    del sets["reconstruction"], arms["reconstruction"], arms["auto"]  # the first stage is exact
    sets["informed"] = {"generator": "informed"}
    arms["informed"] = MIXED | {"set": "informed"}
    arms["recolored-believed"] = MIXED | {"set": "recolored", "reject": 1.25}
    for percent in (25, 75):
        arms[f"recolored-real-{percent}"] = MIXED | {"set": "recolored", "real": percent / 100}
    for percent in (30, 50, 80):
        name = f"recolored-tile-{percent}"
        start = FROM_TILE | {"strength": percent / 100}
        sets[name] = {"generator": "informed", "changes": (*start.items(), ("recolor", "reinhard"))}
        arms[name] = MIXED | {"set": name}
    arms["jitter+transfer+recolored"] = BOTH | {"stain_jitter": 0.2}
    ours = ("stedm", "tile", "recolored", "informed")
    config.report.ours = tuple(name for name in arms if any(part in name for part in ours))
    bounds = ("labelled", "all-labelled")
    rest = (name for name in arms if name not in (*config.report.ours, *bounds))
    config.report.rivals = tuple(rest)
    config.report.intro = (
        "Colon tissue of sixteen patients, split by patient. What a denoiser can be used for, and "
        "what happens when one part of it is changed."
    )
    return config


def _pathsegdiff():
    config = _glas()
    config.data.update(
        {"tiles": "data/glas64-reinhard", "missing": MISSING_64, "tile": 64, "mpp": 2.48}
    )
    config.autoencoder.crop = 0
    config.autoencoder.train = short(600, 16, 2e-3, visual_every=600)
    config.name = "glas_pathsegdiff"
    config.title = "GlaS, features of a guided denoiser"
    config.stages = ("data", "autoencoder", "latents", "ssl", "guided", "segmentation", "report")
    ssl = config.ssl
    ssl.model.update({"width": 64, "depth": 4, "heads": 4, "patch": 8})
    ssl.head.update({"hidden": 256, "bottleneck": 64, "prototypes": 256})
    ssl.crops.update({"global_size": 48, "local_size": 24, "locals": 4})
    ssl.train = short(1200, 32, 1e-3)
    ssl.train.optimizer.update({"weight_decay": 0.04, "weight_decay_end": 0.4})
    ssl.update({"teacher_temperature": (0.04, 0.04), "freeze_last": 0, "momentum": 0.99})
    guided = config.guided
    guided.unet.update(
        {"base": 48, "multipliers": (1, 2, 3), "res_blocks": 1, "attention_at": (4,), "heads": 4}
    )
    guided.unet.context_dim = guided.guide.dim = 64
    guided.cache = True
    guided.train = short(4500, 16, 1e-3, ema__decay=0.999, visual_every=4500)
    segmentation = config.segmentation
    segmentation.features.blocks = BLOCKS
    segmentation.head.width = 64
    segmentation.arms = {name: _arm(name) for name in HEADS}
    segmentation.arms.update({f"{name}-linear": _arm(name, LINEAR) for name in HEADS})
    segmentation.arms.update({name: _arm(name, changes) for name, changes in BASELINES.items()})
    segmentation.seeds = (0, 1)
    segmentation.train = short(200, 16, 2e-3)
    config.report.baseline = "ldm"
    config.report.intro = (
        "Colon tissue of sixteen patients, split by patient and brought to one stain. A denoiser "
        "learns from tiles without labels, and a small head, or a linear one, reads its features; "
        "beside it the guide alone, both, a denoiser that has learnt nothing, and networks that "
        "are trained whole."
    )
    return config


def _official():
    config = _pathsegdiff()
    config.data.update({"tiles": OFFICIAL, "missing": MISSING_OFFICIAL})
    config.name = "glas_official"
    config.title = "GlaS, the challenge's split, features of a guided denoiser"
    for stage in ("autoencoder", "ssl", "guided"):
        config[stage].splits = {"train": 1.0}
    # The tiles have one stain already, and so few of them teach little under the default jitter.
    config.ssl.augment.update({"stain": 0.1, "colour": 0.05, "grey": 0.0, "blur": (0.2, 0.1, 0.1)})
    config.ssl.train.steps, config.ssl.probe.protocol = 2400, "leave_one_out"
    config.segmentation.arms = {
        name: arm for name, arm in config.segmentation.arms.items() if not name.endswith("-linear")
    }
    config.report.whole = f"{OFFICIAL}-whole"
    config.report.whole_least = config.report.whole_hole = 100.0
    config.report.intro = (
        "Colon tissue in the split of the GlaS challenge, brought to one stain. The same people "
        "are among those learnt from and those tested, so these scores can be compared with "
        "published ones and say little about new patients."
    )
    return config


def _arm(network, changes=()):
    return {"real": 1.0, "stain_jitter": 0.0, "network": network, "changes": changes}


def _ablation(arm):
    config, (key, values) = _pathsegdiff(), ABLATIONS[arm]
    config.name = f"glas_{arm}"
    config.title = f"GlaS, {key} of the guided denoiser"
    for stage in ("autoencoder", "ssl", "guided"):
        config[stage].init_from = (f"runs/glas-pathsegdiff/{stage}",)
        config[stage].train.steps = 0
    config.segmentation.arms = {
        f"{number}": _arm("ldm", (*LINEAR, (key, value))) for number, value in enumerate(values)
    }
    config.report.update({"ablation": key, "baseline": ""})
    config.report.intro = (
        "Colon tissue of sixteen patients, split by patient. A linear head reads the features of "
        f"a denoiser that has learnt from tiles without labels; the arms differ in {key}."
    )
    return config
