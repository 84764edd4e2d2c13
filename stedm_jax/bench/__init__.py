"""Measures our programs against the same network in plain PyTorch."""
