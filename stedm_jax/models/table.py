"""All networks at their published sizes: parameters and the cost of one image forward.

    python -m stedm_jax.models.table            all of them
    python -m stedm_jax.models.table UNet VQ    those with one of these words in their names

Nothing is allocated or compiled; a large network takes a few seconds to trace. "G products" are
matrix products and convolutions, as papers count them; "G all" has everything else too (norms,
softmax, sums), but no padding of convolutions.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stedm_jax.models.flops import forward_flops, product_flops
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.published_sizes import PUBLISHED, build_published


class Row(NamedTuple):
    """One row of the table.

    Attributes:
      name: for the reader. network: one of published_sizes.PUBLISHED.
      inputs: shapes (float32, but a "present" is bool) of what the method is given.
      source: publication. gflops: those that the notes on the papers give, 0 where unknown.
      method: what is called. parts: top-level names of the parameters that count; none: all.
    """

    name: str
    network: str
    inputs: Sequence[Sequence[int]]
    source: str
    gflops: int = 0
    method: str = "__call__"
    parts: Sequence[str] = ()


ROWS = tuple(
    Row(network=name, **row) for name, entry in PUBLISHED.items() for row in entry.get("rows", ())
)
"""The rows of the table, as published_sizes.toml lists them."""


def measure(network: Functional, row: Row) -> tuple[int, float, float]:
    """(parameters without running statistics, GFLOPs of products, GFLOPs of everything)."""
    params = network.abstract
    counted = {name: params[name] for name in row.parts} if row.parts else params
    leaves = jax.tree_util.tree_leaves_with_path(counted)
    learned = [leaf for path, leaf in leaves if "running_" not in str(path[-1])]
    inputs = [jax.ShapeDtypeStruct(tuple(shape), jnp.float32) for shape in row.inputs]
    if row.network.startswith("svit"):  # which of its images are there
        inputs[1] = jax.ShapeDtypeStruct(tuple(row.inputs[1]), jnp.bool)

    def call(params: Any, *inputs: Any) -> Any:
        return network.apply(params, *inputs, method=row.method)

    products = product_flops(call, params, *inputs) / 1e9
    return param_count(learned), products, forward_flops(call, params, *inputs) / 1e9


def table(words: Sequence[str] = ()) -> Iterator[str]:
    """The lines of the table in Markdown, one after the other as they are counted."""
    yield "| network | parameters | G products | G all | the papers say | source |"
    yield "|---|---:|---:|---:|---:|---|"
    for row in ROWS:
        if words and not any(word.lower() in row.name.lower() for word in words):
            continue
        size, products, total = measure(build_published(row.network), row)
        known = f"{row.gflops:,}" if row.gflops else ""
        numbers = f"{size:,} | {products:,.1f} | {total:,.1f} | {known}"
        yield f"| {row.name} | {numbers} | {row.source} |"


if __name__ == "__main__":
    for line in table(sys.argv[1:]):
        print(line, flush=True)
