"""The marts: the same rows at every destination, however the published copy is opened."""
