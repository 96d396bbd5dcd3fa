"""Stages one after another in one process, or in one of several.

As a program: ROOT WHAT... [--distributed], with WHAT like `sft` or
`sft:train_generator.train.steps=6`.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
STAGES = {
  "tokenizer": "train_tokenizer",
  "sft": "train_generator",
  "reft": "train_reft",
  "refine": "run_refine",
}


def config_of(changes=""):
  from refine_jax.stages import launch

  config = launch.load_config(f"{HERE}/together_config.py")
  for change in filter(None, changes.split(",")):
    name, value = change.split("=")
    config.update_from_flattened_dict({name: int(value)})
  return config


def run(root, what):
  """One stage in its folder under `root`; what it said."""
  import importlib

  import jax

  name, _, changes = what.partition(":")
  folder = pathlib.Path(root) / name
  if jax.process_index() == 0:
    folder.mkdir(exist_ok=True, parents=True)
  stage = importlib.import_module(f"refine_jax.stages.{STAGES[name]}")
  with watched(folder):
    return stage.main(config_of(changes), folder)


class watched:
  """Writes down what every round of rollouts sampled, in every process."""

  def __init__(self, folder):
    self._folder = folder

  def __enter__(self):
    import jax

    from refine_jax.stages import on_policy

    self._make = make = on_policy.Rounds.make
    path = self._folder / f"drawn-{jax.process_index()}.jsonl"

    def watched_make(rounds, params, number):
      rollouts, figures = make(rounds, params, number)
      row = [[r.sample.tokens, r.reward, r.correct] for r in rollouts]
      with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")
      return rollouts, figures

    on_policy.Rounds.make = watched_make

  def __exit__(self, *_):
    from refine_jax.stages import on_policy

    on_policy.Rounds.make = self._make


def main(root, *wanted):
  sys.path.insert(0, str(HERE))
  wanted = list(wanted)
  from refine_jax.stages import distributed

  if wanted[-1] == "--distributed":
    wanted.pop()
    distributed.join(saves=True)
  with distributed.leaving():
    for what in wanted:
      print(run(root, what), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
