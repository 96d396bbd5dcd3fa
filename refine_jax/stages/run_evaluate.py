"""Evaluates generators: top-1, voting, reranking and pass@k, with intervals.

The only reader of the test split. Per system it samples (or reads
samples.jsonl), lets a reranker score the samples, and writes metrics.json and
metrics.md. What is there already is not made again.
"""

import functools
import json
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import reranking, selection
from refine_jax.stages import build, distributed, launch, rerankers, sampled

SECTIONS = (
  "seed",
  "task",
  "template",
  "mesh",
  "engine",
  "data",
  "run_evaluate",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Evaluates every system on the same problems.

  1. Read the problems.
  2. Per system: answer greedily, sample n times, score.
  3. Figures of every rule, intervals, paired intervals; print the table.
  """
  settings = config.run_evaluate
  bench = Bench(config, workdir)
  found = {name: bench.system(name) for name in settings.order}
  build.tell_programs(bench.task)
  return distributed.by_first(lambda: _report(found, config, workdir))


def _report(found, config: ConfigDict, workdir: pathlib.Path) -> str:
  """Writes what was found of every system."""
  settings = config.run_evaluate
  made = selection.summary(
    found,
    ks=settings.ks,
    seed=config.seed,
    resamples=settings.resamples,
  )
  made |= {"split": settings.split, "n": settings.n, "ks": list(settings.ks)}
  text = selection.report(made)
  files.write(workdir / "metrics.md", text)
  files.write(workdir / "metrics.json", json.dumps(made, indent=2) + "\n")
  print(text, flush=True)
  return (
    f"Wrote {workdir}/metrics.json: {len(found)} systems on"
    f" {made['problems']} problems"
  )


class Bench:
  """The problems, and what one system after the other makes of them."""

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    settings = config.run_evaluate
    self._config, self._settings, self._workdir = config, settings, workdir
    self.task = build.task(config.task, settings.options)
    self._template = build.template(config.template)
    self._problems = build.problems(
      self.task,
      settings.split,
      config.data,
      rows=(settings.rows[0], settings.rows[1] or None),
    )

  def system(self, name: str) -> dict[str, np.ndarray]:
    """Rule -> one value per problem."""
    system = self._settings.systems[name]
    folder = self._workdir / name
    greedy = self._attempts(system, folder, "greedy")
    samples = self._attempts(system, folder, "samples")
    scores = None
    if system.reranker:
      scores = self._scores(system, folder, samples)
    return selection.per_problem(
      selection.table(samples, scores),
      selection.table(greedy),
      self._settings.ks,
    )

  def _attempts(self, system, folder, kind) -> list[records.Attempts]:
    """Read, or sampled now; in the order of the problems."""
    path = folder / f"{kind}.jsonl"
    if system[kind]:
      path = build.resolve(system[kind], self._workdir)
    else:
      self._sample(system, path, greedy=kind == "greedy")
    by_problem = {
      row.problem: row
      for row in selection.merged(records.read(records.Attempts, path))
    }
    missing = [p.id for p in self._problems if p.id not in by_problem]
    if missing:
      raise records.BadRow(
        f"{len(missing)} problems of split {self._settings.split!r} have no"
        f" samples, {missing[0]!r} among them",
        file=str(path),
      )
    return [by_problem[p.id] for p in self._problems]

  def _sample(self, system, path, *, greedy: bool) -> None:
    sampling = build.sampling(self._settings.sampling, self._config.seed)
    if greedy:
      sampling = build.at_temperature(sampling, 0.0)
    generator = build.resolve(system.generator, self._workdir)
    ((suffix, folder),) = sampled.checkpoints(generator, system.select).items()
    sampled.collect(
      path,
      functools.partial(
        build.load_model, folder, build.own_mesh(self._config.mesh)
      ),
      self._config.engine,
      self.task,
      self._template,
      self._problems,
      n=1 if greedy else self._settings.n,
      sampling=sampling,
      chunk=self._settings.chunk,
      suffix=suffix,
    )

  def _scores(self, system, folder, samples) -> dict[tuple[str, str], float]:
    """(problem, completion) -> probability of being right."""
    rows = reranking.rows(samples, self._template)
    path = folder / "scores.json"
    scores = distributed.found(path)
    if scores is None:
      model, lengths = rerankers.load(
        build.resolve(system.reranker, self._workdir),
        build.mesh(self._config.mesh),
      )
      scorer = rerankers.Scorer(model, lengths, self._config.engine.slots)
      scores = scorer(model.params, rows).tolist()
      if jax.process_index() == 0:
        files.write(path, json.dumps(scores) + "\n")
    keys = [(row.problem, row.text) for row in rows]
    return dict(zip(keys, scores, strict=True))


if __name__ == "__main__":
  launch.run(main, SECTIONS)
