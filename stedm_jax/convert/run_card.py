"""What a model card says of the data that a run learned from."""

import json
from pathlib import Path
from typing import Any

from stedm_jax.experiment.segmenters import ABOUT
from stedm_jax.settings.root import Settings


def data_of_run(workdir: Path, settings: Settings) -> dict[str, Any]:
    """Data, resolution, stain, classes, patients and tiles by split, and versions, as model_card
    takes them."""
    tiles = Path(settings.data.tiles.replace("{workdir}", str(workdir)))
    manifest = read_if_there(tiles / "manifest.json")
    noted = read_if_there(workdir / ABOUT)  # the tiles may be elsewhere by now
    stain = (noted.get("stain") or {}).get("kind")
    return {
        "data": f"{settings.name}, tile set {manifest.get('name', tiles.name)}",
        "mpp": manifest.get("mpp") or noted.get("mpp"),
        "tile": manifest.get("tile") or noted.get("tile"),
        "stain_norm": stain or manifest.get("source", {}).get("stain_norm") or None,
        "classes": [name for name, _ in settings.data.groups]
        or noted.get("classes")
        or [each["name"] for each in manifest.get("classes", [])],
        "patients": {split: len(names) for split, names in manifest.get("patients", {}).items()},
        "tiles": manifest.get("records", {}),
        "versions": read_if_there(workdir / "versions.json"),
    }


def read_if_there(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
