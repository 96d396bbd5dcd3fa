"""Flags, composition and one binary per stage."""

import sys

from refine_jax.stages import allocator

# A binary, `python -m refine_jax.stages.<name>`, whose module is still being
# looked for; whoever imports a stage keeps their own allocator. Before JAX is
# imported: the threads that come with it have heaps of their own by then, and
# large blocks on those are given back whatever is asked for later.
if sys.argv[:1] == ["-m"]:
  allocator.keep_memory()
