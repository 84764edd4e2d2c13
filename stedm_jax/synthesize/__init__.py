"""Images of layouts and styles that a user brings, by a trained generator."""
