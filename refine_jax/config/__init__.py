"""Building blocks for config files.

A file under `configs/` imports this package and nothing else, and returns one
ConfigDict that holds every setting of an experiment: what it shows is what
runs. One file serves all the binaries of its method; each reads the sections
it needs. Paths between stages are relative to the stage's workdir.
"""

from refine_jax.config.blocks import *  # noqa: F403
from refine_jax.config.evaluation import *  # noqa: F403
from refine_jax.config.mathcritique import *  # noqa: F403
from refine_jax.config.mathcritique_data import *  # noqa: F403
from refine_jax.config.rationalyst import *  # noqa: F403
from refine_jax.config.refiner import *  # noqa: F403
from refine_jax.config.refiner_experiments import *  # noqa: F403
from refine_jax.config.reft import *  # noqa: F403
from refine_jax.config.reft_small import *  # noqa: F403
