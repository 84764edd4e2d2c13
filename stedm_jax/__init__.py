"""Layout- and style-conditioned latent diffusion for histopathology segmentation, in JAX."""

__version__ = "0.1.0"
