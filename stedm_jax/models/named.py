"""Names within the stage segmentation: the networks that an arm may name, and the judge."""

from typing import Any

JUDGE = "judge"
"""What the judge of synthetic images is called among the arms; its settings are
config.segmentation.judge."""
NETWORKS: dict[str, dict[str, Any]] = {
    "model": {},  # as segmentation.model says
    "resnet18-unet": {"init_from": (), "model.kind": "unet", "model.encoder": "resnet18"},
    "vgg16-fcn8s": {"init_from": (), "model.kind": "fcn8s"},
    "dcan": {"init_from": (), "model.kind": "dcan"},
    "ldm": {"init_from": (), "features.source": "ldm"},
    "random-ldm": {"init_from": (), "features.source": "ldm", "features.weights": "random"},
    "vit": {"init_from": (), "features.source": "vit"},
    "concat": {"init_from": (), "features.source": "concat"},
}
"""Name -> what it changes in config.segmentation."""
