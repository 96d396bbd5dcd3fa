"""An untrained generator, and one of two processes that sample from it.

As a program: index, port, root.
"""

import pathlib
import sys

import jax

HERE = pathlib.Path(__file__).parent


def config_at(root):
  from refine_jax.stages import launch

  config = launch.load_config(str(HERE / "arithmetic_config.py"))
  config.run_sample.update(rows=(0, 11), generator=str(root / "generator"))
  return config


def save_generator(config, root):
  """An untrained one in <root>/generator is enough to sample from."""
  import optax

  from refine_jax.stages import build, train_tokenizer
  from refine_jax.training.checkpoint import Checkpointer
  from refine_jax.training.state import state_of

  train_tokenizer.main(config, root / "tokenizer")
  (root / "generator").mkdir()
  model = build.fresh_model(
    config.train_generator.model,
    config.tokenizer,
    build.mesh(config.mesh),
    root / "generator",
    seed=0,
  )
  with Checkpointer(root / "generator") as checkpointer:
    state = state_of(model.params, optax.sgd(0.0))
    checkpointer.save(state, model.meta)


def main(index, port, root):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
  from refine_jax.stages import run_sample

  root = pathlib.Path(root)
  print(run_sample.main(config_at(root), root / "two"))


if __name__ == "__main__":
  main(*sys.argv[1:])
