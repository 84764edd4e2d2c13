"""The stages of a run, one file each: scripts to be read from top to bottom."""
