"""Makes critic data: wrong and right hypotheses with the feedback they earn.

Reads a task and, if one is named, a generator whose own errors join the
perturbed ones. Writes sampled.jsonl (all of the generator's hypotheses),
critiques.jsonl with both exports beside it: critic_examples.jsonl (x, z' -> f)
and revision_examples.jsonl (x, z', f -> z), and counts.json. Can be killed at
any moment and started again. Several processes share the sampling; the first
does the rest.
"""

import functools
import json
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import critic_data
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.settings import Request
from refine_jax.stages import build, dealt, distributed, launch

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
SAMPLED = "sampled.jsonl"
COUNTS = "counts.json"  # the mark of a complete stage


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one set of critic data.

  1. Chunk by chunk: sample the generator's own hypotheses; the oracle speaks
     on them.
  2. Perturb every problem's gold.
  3. Keep distinct rows, balanced; write them and both exports.
  """
  found = distributed.found(workdir / COUNTS)
  if found is not None:
    return f"{workdir} is complete: {_line(found)}"
  maker = Maker(config, workdir)
  if maker.settings.generator:
    maker.sample()
  return distributed.by_first(lambda: _assemble(maker))


def _assemble(maker: "Maker") -> str:
  """Selects among what all processes have sampled, and perturbed golds."""
  workdir, task, template = maker.workdir, maker.task, maker.template
  rows = [*maker.perturbed(), *maker.sampled()]
  rows = maker.selected(rows)
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
  files.write(workdir / COUNTS, json.dumps(counts, indent=2) + "\n")
  dealt.remove(workdir / SAMPLED)
  return f"Wrote {len(rows)} critiques to {workdir}: {_line(counts)}"


def _line(counts: dict[str, int]) -> str:
  return ", ".join(f"{name} {count}" for name, count in counts.items())


class Maker:
  """A run's objects, and where its rows come from."""

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    self.config, self.settings = config, config.make_critic_data
    self.workdir = workdir
    settings = self.settings
    self.task = build.task(config.task, settings.options)
    self.template = build.template(config.template)
    self.problems = build.problems(
      self.task, settings.split, config.data, rows=(0, settings.rows or None)
    )
    self.chunks = dealt.Chunks(self.problems, settings.chunk)
    # Name -> temperature, and samples of a problem: greedy ones are all alike.
    self._rounds = {
      f"T{t}": (t, settings.samples if t else 1) for t in settings.temperatures
    }

  def sample(self) -> None:
    """This process's chunks; what is on disk is not sampled again."""
    path = dealt.own(self.workdir / SAMPLED)
    with records.Appender(records.Critique, path) as appender:
      for _, problems in self.chunks:
        if self._ids(problems) <= appender.done:
          continue
        found = [
          row for name in self._rounds for row in self._drawn(problems, name)
        ]
        appender.append(row for row in found if row.id not in appender.done)
    distributed.together("all chunks are sampled")

  def _ids(self, problems: Sequence[records.Problem]) -> set[str]:
    return {
      critic_data.sampled_id(problem, name, index)
      for problem in problems
      for name, (_, samples) in self._rounds.items()
      for index in range(samples)
    }

  def _drawn(self, problems, name: str) -> list[records.Critique]:
    """One round's hypotheses on a chunk, under the oracle's feedback."""
    temperature, n = self._rounds[name]
    model, engine = self._generator
    sampling = build.sampling(self.config.completion, self.config.seed)
    requests = [
      Request(p.id, self.template.first(self.task.prompt(p)), n=n)
      for p in problems
    ]
    samples = engine.generate(
      model.params, requests, build.at_temperature(sampling, temperature)
    )
    return critic_data.sampled(self.task, problems, samples, name)

  @functools.cached_property
  def _generator(self) -> tuple[build.Model, Engine]:
    """On this process's devices; loaded when there is something to sample."""
    config = self.config
    path = build.resolve(self.settings.generator, self.workdir)
    model = build.load_model(path, build.own_mesh(config.mesh))
    tokens = config.completion.max_tokens
    return model, build.engine(model, config.engine, tokens, told=True)

  def sampled(self) -> list[records.Critique]:
    """What all processes have sampled, one round after the other; for the
    first process."""
    if not self.settings.generator:
      return []
    self.chunks.join(self.workdir / SAMPLED)
    rows = records.read(records.Critique, self.workdir / SAMPLED)
    order = [*self._rounds]
    return sorted(rows, key=lambda row: order.index(critic_data.round_of(row)))

  def perturbed(self) -> list[records.Critique]:
    settings = self.settings
    if not settings.perturb:
      return []
    share = self.problems[: settings.perturb_rows or None]
    return critic_data.perturbed(self.task, share, seed=self.config.seed)

  def selected(self, rows) -> list[records.Critique]:
    settings = self.settings
    return critic_data.select(
      rows,
      no_hint=self.task.no_hint,
      positives=settings.positives if settings.positives >= 0 else None,
      balance=settings.balance,
      seed=self.config.seed,
    )


if __name__ == "__main__":
  launch.run(main, SECTIONS)
