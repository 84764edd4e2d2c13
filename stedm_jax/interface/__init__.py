"""A trained run for programs in Python: numpy in, numpy out."""
