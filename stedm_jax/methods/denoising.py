"""A denoiser samples each image, from its layout and its style tiles."""

from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Order, Orders, load
from stedm_jax.experiment.sampler import make_sampler
from stedm_jax.methods.method import InBatches, Prepared
from stedm_jax.settings.synthesis import Synthesis


def prepare(context: Context, name: str, orders: Orders, learned: Any) -> Prepared:
    """As method.prepare."""
    settings, section = context.settings, context.settings.synthesis_set(name)
    generator = settings.synthesis.sets[name].generator
    below, params, checkpoint = learned.generator(generator, section)
    sampler = make_sampler(below.task, section, context.seed, context.mesh)

    def load_batch(wanted: list[Order]) -> dict[str, np.ndarray]:
        return load(context.reader, wanted, section)

    def images(batch: dict[str, Any]) -> Any:
        made, finite = sampler(params, below.frozen, batch)
        if not np.all(finite):
            raise UserError(
                f"The denoiser '{generator}' makes images that are not finite for the set '{name}' "
                f"(config.synthesis.sets.{name}), so nothing of this batch is kept. Compare its "
                "guidance with that of other sets (a large guidance.scale overflows), set "
                "config.dtype='float32', or look for jumps of the loss in the generator's "
                "metrics.jsonl."
            )
        return made

    make = InBatches(context, section.batch, images, load_batch)
    provenance = checkpoint | _provenance(section, generator)
    provenance["drop_layout"] = str(settings.generator(generator).drop_layout)
    if section.as_published_code:
        provenance["as_published_code"] = "True"
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
