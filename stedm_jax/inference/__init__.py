"""Whole images, slides and folders to masks, outlines and scores."""
