"""What data_prep.export writes: the forms that other programs read, and the card of the set."""
