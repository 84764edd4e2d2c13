"""Which checkpoint of a segmenter counts: in scores, for the judge, in inference, for exports, and
where another training starts from it."""

from pathlib import Path
from typing import Any

from stedm_jax.common.files import read_json
from stedm_jax.settings.segmentation import Segmentation

BEST = "iou", "max"
"""What the best checkpoint is the best by, on the validation patients."""
KEY = "segmentation.checkpoint"


def scored_checkpoints(section: Segmentation) -> tuple[str, ...]:
    """The checkpoints that are scored, "last" or "best"; the first is the one that counts."""
    return ("best", "last") if section.checkpoint == "both" else (section.checkpoint,)


def best_of(section: Any) -> tuple[str, str] | None:
    """What the checkpoint that counts is the best by; None: the last counts, as it does in any
    section but config.segmentation."""
    return None if getattr(section, "checkpoint", "last") == "last" else BEST


def best_of_cell(folder: Path) -> tuple[str, str] | None:
    """As `best_of`, of a cell by its folder; of a folder without cell.json the last counts."""
    file = folder / "cell.json"
    reads = read_json(file)["reads"] if file.is_file() else {}
    return None if reads.get(KEY, "last") == "last" else BEST
