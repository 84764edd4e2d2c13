"""A denoiser samples each image, from its layout and its style tiles."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Order, Orders, load
from stedm_jax.experiment.sampler import make_sampler
from stedm_jax.methods.method import Prepared
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training.sharding import own_rows, to_global


def prepare(context: Context, name: str, orders: Orders, learned: Any) -> Prepared:
    """As method.prepare."""
    settings, section = context.settings, context.settings.synthesis_set(name)
    generator = settings.synthesis.sets[name].generator
    below, params, checkpoint = learned.generator(generator, section)
    sampler = make_sampler(below.task, section, settings.seed, context.mesh)
    rows = own_rows(section.batch, context.mesh)

    def make(wanted: Sequence[Order]) -> np.ndarray:
        images = []
        for start in range(0, len(wanted), section.batch):
            part = list(wanted[start : start + section.batch])
            filled = part + part[:1] * (section.batch - len(part))
            batch = load(context.reader, [filled[row] for row in rows], section)
            mine = to_global(batch, context.mesh)
            images.append(np.asarray(sampler(params, below.frozen, mine))[: len(part)])
        return np.concatenate(images)

    provenance = checkpoint | _provenance(section, generator)
    provenance["drop_layout"] = str(settings.generator(generator).drop_layout)
    return Prepared(make, provenance)


def _provenance(section: Synthesis, generator: str) -> dict[str, str]:
    guidance = section.guidance
    return {
        "generator": generator,
        "sampler": section.sampler,
        "steps": str(section.steps),
        "spacing": section.spacing,
        "tail": str(tuple(section.tail)),
        "eta": str(section.eta),
        "guidance_on": guidance.on,
        "guidance_scale": str(guidance.scale),
        "guidance_layout_scale": str(guidance.layout_scale),
        "guidance_color": str(guidance.color),
        "guidance_rescale": str(guidance.rescale),
        "guidance_interval": str(tuple(guidance.interval)),
        "guidance_layout_interval": str(tuple(guidance.layout_interval)),
        "start": section.start,
        "strength": str(section.strength),
        "match": section.match,
        "keep_detail": str(section.keep_detail),
    }
