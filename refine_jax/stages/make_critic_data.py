"""Makes critic data: wrong and right hypotheses with the feedback they earn.

Reads a task and, if one is named, a generator whose own errors join the
perturbed ones. Writes critiques.jsonl with both exports beside it:
critic_examples.jsonl (x, z' -> f) and revision_examples.jsonl
(x, z', f -> z).
"""

import json
import pathlib

from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import critic_data
from refine_jax.sampling.settings import Request
from refine_jax.stages import build, distributed, launch

SECTIONS = (
  "seed",
  "task",
  "template",
  "mesh",
  "engine",
  "data",
  "completion",
  "make_critic_data",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one set of critic data.

  1. Perturb every problem's gold.
  2. Sample the generator's own hypotheses; the oracle speaks on them.
  3. Keep distinct rows, balanced; write them and both exports.
  """
  done = workdir / "counts.json"
  if done.exists():
    return f"{workdir} is complete: {done.read_text().strip()}"
  settings = config.make_critic_data
  task = build.task(config.task, settings.options)
  stop = settings.rows or None
  problems = build.problems(task, settings.split, config.data, rows=(0, stop))
  rows = []
  if settings.perturb:
    share = problems[: settings.perturb_rows or None]
    rows += critic_data.perturbed(task, share, seed=config.seed)
  if settings.generator:
    rows += _sampled(task, problems, config, workdir)
  rows = critic_data.select(
    rows,
    no_hint=task.no_hint,
    positives=settings.positives if settings.positives >= 0 else None,
    balance=settings.balance,
    seed=config.seed,
  )
  template = build.template(config.template)
  records.write(workdir / "critiques.jsonl", rows)
  records.write(
    workdir / "critic_examples.jsonl",
    (critic_data.critic_example(row, template) for row in rows),
  )
  records.write(
    workdir / "revision_examples.jsonl",
    (
      critic_data.revision_example(row, template)
      for row in rows
      if row.feedback != task.no_hint
    ),
  )
  counts = critic_data.counts(rows)
  # The mark of a complete stage.
  files.write(done, json.dumps(counts, indent=2) + "\n")
  listing = ", ".join(f"{name} {count}" for name, count in counts.items())
  return f"Wrote {len(rows)} critiques to {workdir}: {listing}"


def _sampled(task, problems, config, workdir) -> list[records.Critique]:
  settings = config.make_critic_data
  model = build.load_model(
    build.resolve(settings.generator, workdir), build.mesh(config.mesh)
  )
  template = build.template(config.template)
  engine = build.engine(model, config.engine, config.completion.max_tokens)
  requests = [
    Request(p.id, template.first(task.prompt(p)), n=settings.samples)
    for p in problems
  ]
  rows = []
  for temperature in settings.temperatures:
    sampling = build.sampling(config.completion, config.seed)
    sampling = build.at_temperature(sampling, temperature)
    asked = requests if temperature else [_once(r) for r in requests]
    samples = engine.generate(model.params, asked, sampling)
    rows += critic_data.sampled(task, problems, samples, f"T{temperature}")
  return rows


def _once(request: Request) -> Request:
  """Greedy samples are all alike."""
  return Request(request.id, request.prompt)


def _models(config: ConfigDict) -> bool:
  return bool(config.make_critic_data.generator)


if __name__ == "__main__":
  launch.run(distributed.alone(main, _models), SECTIONS)
