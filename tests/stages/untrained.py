"""An untrained generator is enough to sample from."""

import pathlib

import optax

from refine_jax.stages import build, launch, train_tokenizer
from refine_jax.training.checkpoint import Checkpointer
from refine_jax.training.state import state_of

HERE = pathlib.Path(__file__).parent


def saved(root):
  """A config, with its tokenizer and generator in their folders."""
  config = launch.load_config(str(HERE / "arithmetic_config.py"))
  train_tokenizer.main(config, root / "tokenizer")
  folder = root / "generator"
  folder.mkdir()
  model = build.fresh_model(
    config.train_generator.model,
    config.tokenizer,
    build.mesh(config.mesh),
    folder,
    seed=0,
  )
  with Checkpointer(folder) as checkpointer:
    checkpointer.save(state_of(model.params, optax.sgd(0.0)), model.meta)
  return config
