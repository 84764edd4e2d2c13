"""torchvision's Swin Transformer V2 has our names; its files also hold what follows from the window alone."""

from stedm_jax.convert.table import Table

TABLE: Table = ()
IGNORE = (r"relative_position_index$", r"relative_coords_table$")
