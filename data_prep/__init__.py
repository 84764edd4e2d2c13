"""Readers, tissue, annotations and tiling: makes tile records from slides, from folders and from
nothing."""
