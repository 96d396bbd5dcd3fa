"""Flags, composition and one binary per stage."""

from refine_jax.stages import allocator

# Before JAX is imported: the threads that come with it have heaps of their own
# by then, and large blocks on those are given back whatever is asked for later.
allocator.keep_memory()
