"""Makes the training set of offline self-training: examples.jsonl.

Reads samples.jsonl and the task's golds. Train on it with
`train_generator.examples`.
"""

import json
import pathlib

from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import self_training
from refine_jax.stages import build, distributed, launch, sampled

SECTIONS = (
  "seed",
  "task",
  "template",
  "data",
  "make_self_training_data",
)


@distributed.alone
def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one training set.

  1. Read the samples and the problems they belong to.
  2. Keep distinct correct completions and the golds.
  3. Write examples.jsonl and counts.json.
  """
  done = workdir / "counts.json"
  if done.exists():
    return f"{workdir} is complete: {done.read_text().strip()}"
  settings = config.make_self_training_data
  build.refuse_test(config, settings.split)
  task = build.task(config.task, settings.options)
  attempts = sampled.read(settings.samples, workdir)
  problems = build.problems(task, settings.split, config.data)
  # Only what was sampled: `run_sample.rows` may have taken a part.
  asked = {row.problem for row in attempts}
  known = [p for p in problems if p.id in asked]
  made = self_training.examples(
    task,
    known,
    attempts,
    build.template(config.template),
    cap=settings.cap,
    choose=settings.choose,
    gold=settings.gold,
    seed=config.seed,
  )
  records.write(workdir / "examples.jsonl", made)
  counts = self_training.counts(known, attempts, made)
  files.write(done, json.dumps(counts) + "\n")
  return (
    f"Wrote {counts['examples']} examples to {workdir}:"
    f" {counts['solved']} of {counts['problems']} problems solved,"
    f" {counts['correct']} of {counts['samples']} samples correct"
  )


if __name__ == "__main__":
  launch.run(main, SECTIONS)
