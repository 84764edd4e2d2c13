"""Quality of a trained generator against the cost of sampling: python -m stedm_jax.curve."""
