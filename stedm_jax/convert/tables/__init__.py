"""Where the names of a published network differ from ours: one table a network."""
