"""What data_prep.inspect looks at: counts, leaks, pixels, and a picture of it all."""
