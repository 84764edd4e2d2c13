"""What every training is told: settings of the loop, the optimiser and the average, and where it
starts."""

from typing import Any

from ml_collections import ConfigDict


def training(steps: int, batch: int, lr: float, **changes: object) -> Any:
    """Settings of one training: what the loop, the optimiser and the EMA read."""
    config = ConfigDict(
        {
            "steps": steps,
            "batch": batch,  # global, over all devices and hosts
            "accumulate": 1,  # micro-batches that a batch is cut into, one after the other, for memory; 1: off
            "log_every": 50,
            "eval_every": 0,  # 0: at the end only
            "checkpoint_every": 1000,
            "visual_every": 0,  # 0: never, otherwise at the end as well
            "keep": 2,
            "skip_bad": 0,  # steps with a loss or gradient that is not finite that are left out before it stops
            "wandb": "",  # or offline, online: the curves on Weights & Biases too (pip install 'stedm_jax[wandb]')
            "profile": (),  # (first, last) step of those profiled, into <stage>/profile
            "optimizer": {
                "name": "adamw",
                "lr": lr,
                "weight_decay": 0.01,
                "weight_decay_end": 0.0,  # what it becomes along a cosine; 0: it stays
                "b1": 0.9,
                "b2": 0.999,
                "clip": 0.0,  # 0: off
                "warmup": 0,
                "schedule": "constant",
                "groups": (),  # (regex, factor) pairs: (("style/.*", 10.0),) learns the style ten times as fast
            },
            "freeze": (),  # regexes of parameters that stay as they are: ("unet/input_blocks/.*",)
            "ema": {
                "decay": 0.0,  # 0: off; warmed up as (1+n)/(10+n)
                "tracks": (),  # widths of power-function averages kept beside it: (0.05, 0.10), as in EDM2
                "snapshot_every": 0,  # steps between snapshots of them, for python -m stedm_jax.ema; 0: none
            },
        }
    )
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


def start() -> dict[str, Any]:
    """Weights to start from; see stedm_jax/stages/initial.py."""
    return {
        "init_from": (),  # "SOURCE" or "PART=SOURCE": a stage folder, a converted folder, a name of the registry
        "init_partial": False,  # what a source lacks starts fresh
    }
