"""The modules of a STEDM checkpoint in PyTorch, registered under the names of the released code:
written for the tests from these names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn


class Tree(nn.Module):
    """Parameters under dotted names."""

    def __init__(self, values: Mapping[str, np.ndarray]):
        super().__init__()
        below: dict[str, dict[str, np.ndarray]] = {}
        for name, value in values.items():
            first, dot, rest = name.partition(".")
            if dot:
                below.setdefault(first, {})[rest] = value
            else:
                self.register_parameter(name, nn.Parameter(torch.from_numpy(value.copy())))
        for name, rest in below.items():
            self.add_module(name, Tree(rest))


class Held(nn.Module):
    """Modules under names that are given."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class Averages(nn.Module):
    """Those of a module, + 1, and what counts them."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.9999))
        self.register_buffer("num_updates", torch.tensor(7, dtype=torch.int))
        for name, value in module.named_parameters():
            self.register_buffer(name.replace(".", ""), value.detach() + 1)


def whole(unet: nn.Module, swin: nn.Module, first: Mapping[str, np.ndarray], **aggregation: Any):
    """All of a checkpoint; every module twice."""
    style = Held(embedder=swin, _embedder=swin, **aggregation)
    mapper = nn.Conv2d(2, 3, 1, bias=False)
    model = Held(
        model=(wrapper := Held(diffusion_model=unet)),
        model_ema=Averages(wrapper),
        first_stage_model=Tree(first),
        cond_stage_model=Held(channel_mapper=mapper),
        agg_block=style,
        _agg_block=style,
    )
    for number, name in enumerate(("betas", "alphas_cumprod", "posterior_variance")):
        model.register_buffer(name, torch.arange(5.0) + number)
    return Held(_model=model, model=model)
