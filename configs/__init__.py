"""Experiments, one file each: `get_config(arm="")` returns data and nothing else."""
