"""Stages one after another in one process, or in one of several.

As a program: ROOT WHAT... [--distributed], with WHAT a key of `STAGES` and
maybe changes: `sft`, or `sft:train_generator.train.steps=6`.
"""

import functools
import json
import pathlib
import sys

import joined

HERE = pathlib.Path(__file__).parent
TRAINED, CHAINS = (
  f"{HERE}/together_config.py",
  f"{HERE.parent.parent}/configs/rationalyst/hint_chains.py:smoke",
)
# Folder -> config, stage, and what it changes.
STAGES = {
  "tokenizer": (TRAINED, "train_tokenizer", {}),
  "sft": (TRAINED, "train_generator", {}),
  "reft": (TRAINED, "train_reft", {}),
  "refine": (TRAINED, "run_refine", {}),
  "online_st": (TRAINED, "train_online_st", {}),
  "critic_data": (TRAINED, "make_critic_data", {}),
  "critic": (TRAINED, "train_critic", {}),
  "refiner": (TRAINED, "train_refiner", {}),
  "rationalyst": (TRAINED, "train_rationalyst", {}),
  "lora": (
    TRAINED,
    "train_generator",
    {
      "train_generator.model.init_from": "../sft",
      "train_generator.train.lora.rank": 2,
      "train_generator.train.steps": 2,
    },
  ),
  "samples": (TRAINED, "run_sample", {}),
  "self_training": (TRAINED, "make_self_training_data", {}),
  "reranker": (TRAINED, "train_reranker", {}),
  "evaluation": (TRAINED, "run_evaluate", {}),
  "exported": (TRAINED, "export_hf", {}),
  "merged": (TRAINED, "export_hf", {"export_hf.checkpoint": "../lora"}),
  "classifier": (TRAINED, "export_hf", {"export_hf.checkpoint": "../reranker"}),
  "report": (TRAINED, "make_report", {}),
  "critique_report": (
    TRAINED,
    "make_critique_report",
    {"run_refine.order": ()},
  ),
  "chains/tokenizer": (CHAINS, "train_tokenizer", {}),
  "chains/base_examples": (
    CHAINS,
    "make_base_examples",
    {"task.options.size": 50},
  ),
  "chains/documents": (CHAINS, "make_documents", {"make_documents.block": 16}),
}


def config_of(name, changes=""):
  """Of a key of `STAGES`; `changes` are `section.field=number`, with commas."""
  from refine_jax.stages import launch

  spec, _, own = STAGES[name]
  config = launch.load_config(spec)
  given = (change.split("=") for change in filter(None, changes.split(",")))
  config.update_from_flattened_dict(
    {**own, **{field: int(value) for field, value in given}}
  )
  return config


def run(root, what):
  """One stage in its folder under `root`; what it said."""
  name, _, changes = what.partition(":")
  folder = pathlib.Path(root) / name
  with watched(folder):
    return joined.stage(STAGES[name][1], config_of(name, changes), folder)


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


if __name__ == "__main__":
  joined.each(sys.argv[2:], functools.partial(run, sys.argv[1]), saves=True)
