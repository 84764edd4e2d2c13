"""Layout- and style-conditioned latent diffusion for histopathology segmentation, in JAX."""

__version__ = "0.2.0.dev0"
