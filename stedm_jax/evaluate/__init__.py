"""Comparison of two arms, from tables of scores by patient: python -m stedm_jax.evaluate."""
