"""One update, and what surrounds it: optimizer, checkpoints, metrics."""
