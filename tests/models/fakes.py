"""Parameters for tests, made by numpy: nothing to compile, nothing exactly zero."""

import jax
import jax.numpy as jnp
import numpy as np


def random_params(network, seed=0):
    """As after some training: kernels of unit gain, scales near 1, everything else near 0."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape)
        if leaf.ndim >= 2:
            values = values / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = 0.1 * values + (path[-1].key == "scale")
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, network.abstract)
