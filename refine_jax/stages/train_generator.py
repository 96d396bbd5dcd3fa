"""Trains a generator on (question -> gold): warm start, SFT, continuation.

Reads a task's split, or Examples that another stage wrote; writes checkpoints
and metrics. Validation decodes greedily and keeps the best checkpoint.
"""

import pathlib

from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.methods.refine import Template
from refine_jax.stages import build, launch, supervised
from refine_jax.tasks.base import Task

SECTIONS = (
  "seed",
  "task",
  "tokenizer",
  "template",
  "mesh",
  "engine",
  "data",
  "completion",
  "train_generator",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains one generator.

  1. Build the task, the mesh and the model.
  2. Encode the training examples.
  3. Train; every `eval_every` updates answer the validation problems.
  """
  settings = config.train_generator
  build.refuse_test(config, settings.split, settings.eval_split)
  task = build.task(config.task, settings.options)
  template = build.template(config.template)
  mesh = build.mesh(config.mesh)
  model = build.fresh_model(
    settings.model,
    config.tokenizer,
    mesh,
    workdir,
    seed=config.seed,
    markers=(*task.markers, *template.markers),
  )
  examples = read_examples(task, template, config, workdir)
  validate = validation(task, template, model, config)
  return supervised.run(
    model,
    build.encoded(model, examples, config.data),
    config.data,
    settings.train,
    workdir=workdir,
    validate=validate,
    config=config,
  )


def read_examples(
  task: Task, template: Template, config: ConfigDict, workdir: pathlib.Path
) -> list[records.Example]:
  settings = config.train_generator
  if settings.examples:
    files = settings.examples
    return [
      row
      for path in ((files,) if isinstance(files, str) else files)
      for row in records.read(records.Example, build.resolve(path, workdir))
    ]
  rows = (settings.get("first", 0), settings.rows or None)
  problems = build.problems(task, settings.split, config.data, rows=rows)
  problems = problems[: max(1, round(settings.share * len(problems)))]
  return [
    records.Example(
      id=problem.id,
      prompt=template.first(task.prompt(problem)),
      target=(task.target(problem),),
    )
    for problem in problems
  ]


def validation(task, template, model, config) -> supervised.Validate:
  """Greedy answers to the first `eval_rows` validation problems."""
  settings = config.train_generator
  problems = build.problems(
    task,
    settings.eval_split,
    config.data,
    rows=(0, settings.train.eval_rows),
  )
  completion = config.completion
  engine = build.engine(model, config.engine, completion.max_tokens)
  sampling = build.sampling(completion)
  return supervised.answering(task, template, problems, engine, sampling)


if __name__ == "__main__":
  launch.run(main, SECTIONS, saves=True)
