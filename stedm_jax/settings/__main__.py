"""Prints the reference of all keys: python -m stedm_jax.settings > docs/configuration.md."""

from stedm_jax.settings.document import document

if __name__ == "__main__":
    print(document())
