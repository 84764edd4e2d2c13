"""Vision Transformers: timm's names are ours by the usual rules; what else their files hold is left alone."""

from stedm_jax.convert.table import Table

TABLE: Table = ()

IGNORE = (r"^head\.", r"^fc_norm\.", r"^mask_token$")
"""Classifier of a timm file, projection head of a DINO teacher, token of masked training."""
