"""One of two processes of a sampling run: index, port, root."""

import pathlib
import sys

import jax

HERE = pathlib.Path(__file__).parent


def config_at(root):
  from refine_jax.stages import launch

  config = launch.load_config(str(HERE / "arithmetic_config.py"))
  config.run_sample.update(rows=(0, 11), generator=str(root / "generator"))
  return config


def main(index, port, root):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
  from refine_jax.stages import run_sample

  root = pathlib.Path(root)
  print(run_sample.main(config_at(root), root / "two"))


if __name__ == "__main__":
  main(*sys.argv[1:])
