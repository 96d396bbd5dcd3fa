"""Array maths only: losses, returns and scores; no models, no files."""
