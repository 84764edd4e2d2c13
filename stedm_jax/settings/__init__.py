"""Every key of a configuration, declared once; what reads, checks and documents them."""
