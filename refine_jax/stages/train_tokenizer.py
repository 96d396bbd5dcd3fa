"""Trains a tokenizer on a task's texts, or copies the one that is named.

Writes <workdir>/tokenizer, which the other stages' configs name.
"""

import itertools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from refine_jax.data import tokenizer as tokenizers
from refine_jax.data import tokenizer_training
from refine_jax.stages import build, distributed, launch
from refine_jax.stages.reading import BadConfig

SECTIONS = ("task", "tokenizer", "template", "data")


@distributed.alone
def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one tokenizer.

  1. Without training settings there is nothing to do.
  2. Collect texts: the task's own corpus, or its training rows.
  3. Train, and check that the task's markers survive.
  """
  settings = config.tokenizer.train
  if not settings:
    return f"The tokenizer is {config.tokenizer.path}; nothing to train"
  task = build.task(config.task)
  template = build.template(config.template)
  markers = (*task.markers, *template.markers, *settings.get("markers", ()))
  folder = workdir / "tokenizer"
  if (folder / "tokenizer.model").exists() or (folder / "words.json").exists():
    made = tokenizers.load(folder)
  elif settings.model_type == "words":
    made = tokenizer_training.train_words(
      _texts(task, template, config), folder, settings.vocab_size, markers
    )
  else:
    made = tokenizer_training.train_sentencepiece(
      _texts(task, template, config),
      folder / "tokenizer.model",
      settings.vocab_size,
      settings.model_type,
      markers,
      split_digits=settings.get("split_digits", True),
      code=settings.get("code", False),
    )
  if lost := made.tokens_unknown(markers):
    raise BadConfig(f"{folder} cannot represent {', '.join(lost)}")
  return f"Wrote {folder}: {made.vocab_size} ids"


def _texts(task, template, config):
  texts = list(itertools.islice(task.corpus(), config.tokenizer.train.texts))
  if not texts:
    problems = build.problems(
      task, "train", config.data, rows=(0, config.tokenizer.train.texts)
    )
    texts = [t for p in problems for t in (task.prompt(p), task.target(p))]
    texts += [task.no_hint]
    texts += [
      row.feedback for p in problems[:1000] for row in _perturbed(task, p)
    ]
  return [*texts, *template.markers]


def _perturbed(task, problem):
  return task.perturb(problem, np.random.default_rng(0))


if __name__ == "__main__":
  launch.run(main, SECTIONS)
