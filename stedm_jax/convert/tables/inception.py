"""The Inception-v3 of the FID: names of the graph below a prefix, batch norms as beta, mean and
var."""

from stedm_jax.convert.torch_names import Rule, Table

TABLE: Table = (
    Rule("net.layers.{a}.weight", "{a}/kernel", "kernel"),
    Rule("net.layers.{a}", "{a}"),
)
