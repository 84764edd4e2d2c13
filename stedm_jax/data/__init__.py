"""Tile records: schema, shards on disk, patient splits, style pools and the grain pipeline."""
