"""What the values of masks mean in every room."""

VOID = 255
"""Mask value of a pixel without a label; it changes no loss and no score."""
