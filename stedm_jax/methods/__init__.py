"""Methods to make synthetic tiles, a file each."""
