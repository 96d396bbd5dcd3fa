"""One file per model family; parameters are data, passed in."""
