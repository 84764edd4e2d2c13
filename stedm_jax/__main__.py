"""python -m stedm_jax: as python -m stedm_jax.main."""

from stedm_jax.main import cli

if __name__ == "__main__":
    cli()
