"""Weights averaged over a training, as a checkpoint of latent diffusion holds them beside the last
ones.

LDM's LitEma keeps the average of the parameter `a.b.weight` under the name `abweight`, since the
names of buffers may not have dots; in the whole file it is `model_ema.diffusion_modelabweight`. Its
authors sample with the averages.
"""

from collections.abc import Iterable

from stedm_jax.common.errors import UserError
from stedm_jax.convert.weight_files import Tensors

CHOICES = ("auto", "ema", "raw")
OWN = "model_ema."
"""How all names of LitEma begin; `decay` and `num_updates` are among them."""


def averaged(
    tensors: Tensors,
    everything: Tensors,
    names: Iterable[str],
    prefix: str,
    choice: str,
    where: str,
) -> tuple[Tensors, int]:
    """Tensors with the averages in place of the last weights, and how many there are.

    A parameter without an average, as one that was not trained, keeps its last value.

    Args:
      tensors: those of the network. everything: the whole file, under its own names.
      names: of the network's parameters, as they are in `tensors`.
      prefix: how the names of averages begin; "": there are none of this network.
      choice: one of CHOICES; auto takes averages where there are any.
      where: the file, for errors.

    Raises:
      UserError: averages are asked for and there are none, or two parameters have the same name
        without dots.
    """
    found = {name for name in everything if prefix and name.startswith(prefix)}
    if choice == "raw" or (choice == "auto" and not found):
        return tensors, 0
    if not found:
        begin = f" (their names would begin with {prefix})" if prefix else ""
        raise UserError(
            f"{where} holds no averaged weights of this network{begin}; leave out --weights=ema."
        )
    known: dict[str, str] = {}
    for name in names:
        without_dots = prefix + name.replace(".", "")
        if without_dots not in found:
            continue
        if without_dots in known:
            raise UserError(
                f"{where} holds {without_dots}, which may be the average of {known[without_dots]} "
                f"or of {name}. Take the last weights with --weights=raw."
            )
        known[without_dots] = name
    # What the network does not have stays under its own name, so that it is found to be unexpected.
    strange = {name: name for name in found if name not in known}
    return tensors.replaced(known | strange, everything, OWN), len(known)
