"""PathSegDiff from tiles to report on tiny networks, and an ablation that starts from what was
learnt."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from stedm_jax.data.records import TileSet
from tests.test_whole_run import run

CONFIG = """
from configs.glas import get_config as glas

WORKDIR = {workdir!r}


def get_config(arm=""):
    config = glas("pathsegdiff")
    config.data.update({{"tiles": {tiles!r}, "tile": 32, "mpp": 2.0}})
    config.data.update({{"groups": (), "foreground": ("tumour",)}})
    config.autoencoder.model.update({{"channels": 4, "multipliers": (1, 1, 1)}})
    config.ssl.model.update({{"width": 8, "depth": 1, "heads": 2}})
    config.ssl.head.update({{"hidden": 8, "bottleneck": 4, "prototypes": 16}})
    config.ssl.crops.update({{"global_size": 24, "local_size": 16, "locals": 1}})
    config.guided.unet.update({{"base": 8, "multipliers": (1, 1), "attention_at": (2,)}})
    config.guided.unet.update({{"heads": 2, "context_dim": 6}})
    config.guided.guide.dim = 6
    for stage in ("autoencoder", "ssl", "guided", "segmentation"):
        config[stage].train.update({{"steps": 2, "batch": 8, "log_every": 1, "visual_every": 0}})
    config.latents.tiles = 16
    section = config.segmentation
    section.features.blocks = ("output_blocks/1", "output_blocks/2")
    section.head.width = 8
    section.seeds = (0,)
    if arm == "ablate":
        for stage in ("autoencoder", "ssl", "guided"):
            config[stage].init_from = (f"{{WORKDIR}}/{{stage}}",)
            config[stage].train.steps = 0
        head = {{"real": 1.0, "stain_jitter": 0.0, "network": "ldm"}}
        section.arms = {{
            f"t{{t}}": head | {{"changes": (("features.timesteps", (t,)),)}} for t in (50, 300)
        }}
        config.report.update({{"ablation": "features.timesteps", "baseline": ""}})
        return config
    arms = {{name: dict(section.arms[name]) for name in ("ldm", "random-ldm", "concat")}}
    real = {{"real": 1.0, "stain_jitter": 0.0}}
    tuned = real | {{"network": "ldm", "changes": (("head.tune", True),)}}
    jitter = real | {{"stain_jitter": 0.1, "network": "vit"}}
    section.arms = arms | {{"tuned": tuned, "jitter": jitter}}
    return config
"""


@pytest.mark.slow
def test_from_tiles_without_labels_to_a_report_and_an_ablation(tile_set: TileSet, tmp_path: Path):
    text = CONFIG.format(tiles=str(tile_set.path), workdir=str(tmp_path / "run"))
    (tmp_path / "small.py").write_text(text)
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    counts = {split: len(tile_set.index(split)) for split in ("train", "style", "val", "test")}
    views = 8 * (counts["train"] + counts["style"]) + counts["val"] + counts["test"]
    assert (
        "[ssl]" in first.stdout
        and "[guided]" in first.stdout
        and f"guided: {views} views" in first.stdout
    )

    summary = json.loads((tmp_path / "run/report/summary.json").read_text())
    arms = ["ldm", "random-ldm", "concat", "tuned", "jitter"]
    assert set(summary["arms"]) == set(arms) and "synthesis" not in summary
    assert all(
        arm["n_patients"] == 2 and 0 <= arm["patient_iou_mean"] <= 1
        for arm in summary["arms"].values()
    )
    scores = {
        arm: json.loads((tmp_path / f"run/segmentation/{arm}/0/scores.json").read_text())
        for arm in arms
    }
    pixels = {arm: np.sum(list(each["confusion"]["test"].values())) for arm, each in scores.items()}
    assert set(pixels.values()) == {16 * 32 * 32}
    used = json.loads((tmp_path / "run/segmentation/ldm/0/frozen.json").read_text())
    assert set(used) == {"first", "guide", "denoiser"}
    assert set(
        json.loads((tmp_path / "run/segmentation/random-ldm/0/frozen.json").read_text())
    ) == {"first", "guide"}

    again = run(tmp_path)
    assert again.returncode == 0 and "All is done" in again.stdout

    other = run(
        tmp_path, f"--config={tmp_path / 'small.py'}:ablate", f"--workdir={tmp_path / 'ablation'}"
    )
    assert other.returncode == 0, other.stderr
    with (tmp_path / "ablation/report/ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["setting"] for row in rows] == ["50", "300"]
    assert (tmp_path / "ablation/report/ablation.png").stat().st_size > 1000
