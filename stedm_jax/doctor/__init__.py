"""Says before a run what would stop it: this machine, the data, and whether a program fits the
chips of a pod."""
