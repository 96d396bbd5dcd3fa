"""Train reasoning models with feedback: REFINER, ReFT and kin, in JAX."""

__version__ = "0.1.0"
