"""The stain vectors that both the host and the device use."""

import numpy as np

HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
"""Optical density of hematoxylin, eosin, and DAB, one row each (Ruifrok and Johnston, 2001)."""
