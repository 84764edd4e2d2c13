"""A trained run as one folder, for machines without its workdir and its tiles."""
