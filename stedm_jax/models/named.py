"""Networks that an arm of the stage segmentation may name: what each changes in config.segmentation."""

from typing import Any

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
