"""One file per data set: pure Python, never imports jax."""
