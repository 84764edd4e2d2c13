"""The train state: step, parameters, their moving averages and the optimizer's state."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.settings.training import Ema, track_name
from stedm_jax.training.param_paths import merged, named, split
from stedm_jax.training.sharding import param_shardings


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """`step` int32 counts the updates made; `ema` is {} when none is kept, and so are `tracks`,
    those of averages.py by name. Leaves may also be abstract.

    `params` are those that are trained, which alone have averages and a state of the optimizer;
    `still` are those that stay as they are, {} as a rule.
    """

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    still: Any = field(default_factory=dict)
    tracks: Any = field(default_factory=dict)

    @property
    def all_params(self) -> Any:
        """The parameters of the task, trained or not."""
        return merged(self.params, self.still)

    @property
    def weights(self) -> Any:
        """The parameters to evaluate and to use: the moving average when one is kept."""
        return merged(self.ema or self.params, self.still)


def with_shardings(abstract: Any, mesh: Mesh) -> Any:
    """Adds the shardings of `param_shardings` to a tree of ShapeDtypeStructs."""
    join = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(join, abstract, param_shardings(abstract, mesh))


def check_params(params: Any, abstract: Any) -> None:
    """Refuses (UserError) parameters whose names or shapes differ from `abstract`."""
    given, wanted = (
        {name: tuple(leaf.shape) for name, leaf in named(tree).items()}
        for tree in (params, abstract)
    )
    wrong = [
        f"{name} {given[name]} instead of {wanted[name]}"
        for name in given
        if wanted.get(name, given[name]) != given[name]
    ]
    wrong += [f"{name} missing" for name in wanted if name not in given]
    wrong += [f"{name} unknown" for name in given if name not in wanted]
    if wrong:
        raise UserError(
            f"The weights to start from do not fit this model: {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}. Use weights of the same "
            "settings."
        )


def count_params(tree: Any) -> int:
    """Number of elements of all leaves, arrays or abstract."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def fresh_state(
    params: Any, tx: optax.GradientTransformation, ema: Ema, still: Container[str]
) -> TrainState:
    """The state at step 0 of these parameters, sharing no buffer with them; those at the paths
    `still` stay as they are."""
    # Copies, because the state is donated: no two leaves, and no caller's array, may share a
    # buffer.
    copied = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731
    params, kept = split(params, still) if still else (params, {})
    average = copied(params) if ema.decay > 0 else {}
    tracks = {track_name(width): copied(params) for width in ema.tracks}
    return TrainState(jnp.int32(0), copied(params), average, tx.init(params), copied(kept), tracks)
