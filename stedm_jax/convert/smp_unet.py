"""Which smp.Unet a file of weights is of: its encoder, its decoder and its classes, from names and
shapes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.torch_names import torch_name, torch_shape
from stedm_jax.models.named_networks import SEGMENTER_ENCODERS, find
from stedm_jax.models.published_sizes import build_published, unet_name
from stedm_jax.training.param_paths import named

_FIRST = {
    "mit": "encoder.patch_embed1.proj.weight",
    "resnet": "encoder.conv1.weight",
    "convnext": "encoder.model.stem_0.weight",
}
"""Kind of encoder -> the first convolution, whose name only it has."""
_HEAD = "segmentation_head.0.weight"


def recognized(tensors: Mapping[str, np.ndarray], where: str) -> tuple[str, dict[str, Any]]:
    """The network's name in models/published_sizes.toml, and its decoder and classes, as arguments
    of its constructor.

    Args:
      tensors: by their names in smp.Unet.
      where: the file, for errors.

    Raises:
      UserError: it is no smp.Unet with an encoder that we have.
    """
    kind = next((kind for kind, name in _FIRST.items() if name in tensors), None)
    decoder: list[int] = []
    while (name := f"decoder.blocks.{len(decoder)}.conv1.0.weight") in tensors:
        decoder.append(tensors[name].shape[0])
    if kind is None or not decoder or _HEAD not in tensors:
        raise UserError(
            f"{where} holds no smp.Unet with an encoder mit_..., resnet... or tu-convnext_...; "
            f"names that are looked for are {_HEAD} and {', '.join(_FIRST.values())}, perhaps "
            f"after '_model.' or 'model.'. The file holds {', '.join(sorted(tensors)[:4])}, ..."
        )
    known = find(f"{kind}:SIZES")
    for encoder in known:
        if _is_of(tensors, unet_name(encoder), _FIRST[kind]):
            shape = {"classes": tensors[_HEAD].shape[0], "decoder": tuple(decoder)}
            return unet_name(encoder), shape
    raise UserError(
        f"The encoder in {where} is of the kind {kind}, but none of {', '.join(known)}."
    )


def advice(network: str, info: Mapping[str, Any]) -> str:
    """What a configuration has to say of a recognized network.

    Args:
      network: its name.
      info: what convert.json says; `classes` and `decoder` among it.
    """
    (encoder,) = (each for each in SEGMENTER_ENCODERS if unet_name(each) == network)
    text = (
        f"config.segmentation.model: encoder='{encoder}', decoder={tuple(info['decoder'])}, "
        f"norm='batch'; config.data.groups: {info['classes']}, in the file's order"
    )
    if info["classes"] == 1:
        text += (
            "\nnote: this is a network of one class with a sigmoid; segmenters here have an output "
            "for each class, and a softmax, so that segmentation.init_from refuses it"
        )
    return text


def _is_of(tensors: Mapping[str, np.ndarray], network: str, first: str) -> bool:
    """Whether a file has the encoder of a network: its names, and the width that these do not
    show."""
    found = {}
    for path, leaf in named(build_published(network).abstract["encoder"]).items():
        name, layout = torch_name(f"encoder/{path}", len(leaf.shape), tables(network)[0])
        found[name] = torch_shape(leaf.shape, layout)
    theirs = {
        name
        for name in tensors
        if name.startswith("encoder.") and not name.endswith("num_batches_tracked")
    }
    return theirs == found.keys() and tensors[first].shape == found[first]
