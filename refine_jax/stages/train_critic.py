"""Trains a critic on (question, hypothesis -> feedback).

Reads the critiques that make_critic_data wrote; the last ones are held out
for validation. Writes checkpoints and metrics.
"""

import collections
import pathlib

from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.methods import critic_data
from refine_jax.stages import build, critiquing, launch, supervised

SECTIONS = (
  "seed",
  "task",
  "tokenizer",
  "template",
  "mesh",
  "engine",
  "feedback",
  "train_critic",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains one critic.

  1. Read the critiques and hold some out, whole problems at a time.
  2. Build the model, from a checkpoint or from scratch.
  3. Train; validation compares what it says with what it should.
  """
  settings = config.train_critic
  task = build.task(config.task)
  template = build.template(config.template)
  files = settings.critiques
  rows = [
    row
    for path in ((files,) if isinstance(files, str) else files)
    for row in records.read(records.Critique, build.resolve(path, workdir))
  ]
  train, held_out = _split(rows, settings.train.eval_rows)
  model = build.fresh_model(
    settings.model,
    config.tokenizer,
    build.mesh(config.mesh),
    workdir,
    seed=config.seed,
    markers=(*task.markers, *template.markers),
  )
  examples = [critic_data.critic_example(row, template) for row in train]
  engine = build.engine(model, settings.engine, config.feedback.max_tokens)
  return supervised.run(
    model,
    build.encoded(model, examples, settings.data),
    settings.data,
    settings.train,
    workdir=workdir,
    validate=_validation(settings, task, template, held_out, engine, config),
    config=config,
  )


def _validation(settings, task, template, held_out, engine, config):
  sampling = build.sampling(config.feedback)
  if "grammar" not in settings:  # one sentence, not a verdict on every step
    return supervised.criticising(task, template, held_out, engine, sampling)
  words = critiquing.grammar(settings.grammar)
  return critiquing.validation(
    task, template, words, held_out, engine, sampling
  )


def _split(rows: list[records.Critique], count: int):
  """The rest, and at least `count` rows (a fifth at most) of whole problems."""
  groups: dict[str, list[records.Critique]] = collections.defaultdict(list)
  for row in rows:
    groups[row.problem].append(row)
  held: list[records.Critique] = []
  for group in reversed(list(groups.values())):
    if len(held) >= min(count, len(rows) // 5):
      break
    held += group
  out = {row.id for row in held}
  return [row for row in rows if row.id not in out], held


if __name__ == "__main__":
  launch.run(main, SECTIONS, saves=True)
