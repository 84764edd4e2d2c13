"""Slides and images, whoever made them, as pixels at a wanted number of microns."""
