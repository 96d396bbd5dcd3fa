"""Samples n completions of every problem and checks them: samples.jsonl.

Reads a generator and a task's split; any but the one that is kept for
run_evaluate. Can be killed at any moment and started again.
"""

import functools
import json
import pathlib

from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.stages import build, distributed, launch, sampled

SECTIONS = (
  "seed",
  "task",
  "template",
  "mesh",
  "engine",
  "data",
  "run_sample",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Samples one split.

  1. Read the problems.
  2. Per checkpoint: sample what samples.jsonl does not have yet, check it.
  3. Count.
  """
  settings = config.run_sample
  build.refuse_test(config, settings.split)
  task = build.task(config.task, settings.options)
  problems = build.problems(
    task,
    settings.split,
    config.data,
    rows=(settings.rows[0], settings.rows[1] or None),
  )
  mesh = build.own_mesh(config.mesh)
  generator = build.resolve(settings.generator, workdir)
  found = sampled.checkpoints(generator, settings.select)
  for suffix, folder in found.items():
    sampled.collect(
      workdir / "samples.jsonl",
      functools.partial(build.load_model, folder, mesh),
      config.engine,
      task,
      build.template(config.template),
      problems,
      n=settings.n,
      sampling=build.sampling(settings.sampling, config.seed),
      chunk=settings.chunk,
      suffix=suffix,
    )
  build.tell_programs(task)
  return distributed.by_first(lambda: _counted(workdir))


def _counted(workdir: pathlib.Path) -> str:
  counts = count(workdir / "samples.jsonl")
  files.write(workdir / "counts.json", json.dumps(counts) + "\n")
  return (
    f"Wrote {counts['samples']} samples of {counts['problems']} problems to"
    f" {workdir}: {counts['correct']} correct, {counts['solved']} problems"
    " solved"
  )


def count(path: pathlib.Path) -> dict[str, int]:
  """What a file holds."""
  rows = list(records.read(records.Attempts, path))
  return {
    "problems": len({row.problem for row in rows}),
    "samples": sum(len(row.candidates) for row in rows),
    "correct": sum(c.correct for row in rows for c in row.candidates),
    "answered": sum(
      c.answer is not None for row in rows for c in row.candidates
    ),
    "solved": len(
      {row.problem for row in rows if any(c.correct for c in row.candidates)}
    ),
  }


if __name__ == "__main__":
  launch.run(main, SECTIONS)
