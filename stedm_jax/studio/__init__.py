"""A page to paint layouts on, with a trained run."""
