"""The networks that an arm of the segmentation may name, and the name of the judge."""

from typing import Any

JUDGE = "judge"
"""Name of the judge of synthetic images among the arms; it is config.segmentation.judge."""
NETWORKS: dict[str, dict[str, Any]] = {
    "model": {},  # what segmentation.model describes
    "resnet18-unet": {"init_from": (), "model.kind": "unet", "model.encoder": "resnet18"},
    "vgg16-fcn8s": {"init_from": (), "model.kind": "fcn8s"},
    "dcan": {"init_from": (), "model.kind": "dcan"},
    "ldm": {"init_from": (), "features.source": "ldm"},
    "random-ldm": {"init_from": (), "features.source": "ldm", "features.weights": "random"},
    "vit": {"init_from": (), "features.source": "vit"},
    "concat": {"init_from": (), "features.source": "concat"},
}
"""Name -> what it changes in config.segmentation."""
HEADS = ("ldm", "random-ldm", "vit", "concat")
"""Those of NETWORKS that are a head on features of a guided denoiser."""
