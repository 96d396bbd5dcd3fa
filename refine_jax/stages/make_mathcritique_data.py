"""Makes critiques of flawed and right solutions, filtered: AutoMathCritique.

Writes annotated.jsonl (every row, with what dropped it), critiques.jsonl (for
train_critic), reason_examples.jsonl (gold solutions), revision_examples.jsonl
((x, y, c) -> y'), examples.jsonl (both, for a first actor) and manifest.json.
Can be killed at any moment and started again. Several processes share the
chunks; the first puts their rows together.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.methods import (
  annotation,
  critique_filter,
  critique_rows,
  flawed,
  monte_carlo,
  published,
)
from refine_jax.stages import (
  build,
  critiquing,
  dealt,
  distributed,
  launch,
  replies,
)
from refine_jax.stages.reading import BadConfig

SECTIONS = (
  "seed",
  "task",
  "template",
  "mesh",
  "engine",
  "data",
  "completion",
  "feedback",
  "make_mathcritique_data",
)
_STUDIED = 2000  # rows whose critiques are exchanged for others
ROWS, ATTEMPTS = "annotated.jsonl", "attempts.jsonl"
OUTPUTS = (
  ROWS,
  "critiques.jsonl",
  "reason_examples.jsonl",
  "revision_examples.jsonl",
  "examples.jsonl",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one set of critiques.

  1. Chunk by chunk: flawed solutions, critiques, filters; or read rows that
     were published.
  2. Balance right and wrong responses.
  3. Write what is trained on, and the manifest.
  """
  if found := distributed.spoken(critiquing.sealed(workdir)):
    return f"{workdir} is complete: {_line(found)}"
  maker = Maker(config, workdir)
  if not maker.settings.published:
    maker.make()
  return distributed.by_first(lambda: _assemble(maker))


def _assemble(maker: "Maker") -> str:
  """Puts together what all processes have made."""
  config, workdir = maker.config, maker.workdir
  rows = maker.published() if maker.settings.published else maker.made()
  settings, task, template = maker.settings, maker.task, maker.template
  kept = critique_rows.with_positives(
    [r for r in rows if r.kept], settings.positives, config.seed
  )
  critiques = map(critique_rows.critique, kept)
  records.write(workdir / "critiques.jsonl", critiques)
  problems = [] if settings.published else maker.problems()
  revisions = [
    *critique_rows.revisions(kept, task, template, problems),
    *monte_carlo.misfits(kept, template, settings.misfits),
  ]
  reasons = critique_rows.reasoning(
    task, template, problems, settings.golds, settings.gold_steps
  )
  records.write(workdir / "reason_examples.jsonl", reasons)
  records.write(workdir / "revision_examples.jsonl", revisions)
  records.write(workdir / "examples.jsonl", [*reasons, *revisions])
  manifest = critiquing.seal(
    workdir,
    {
      **critique_rows.counts(rows, kept),
      **maker.figures,
      **critique_rows.located(rows, task, problems),
      **replies.spent(maker.settings, workdir),
    },
    OUTPUTS,
  )
  dealt.remove(workdir / ROWS, workdir / ATTEMPTS)
  return f"Wrote {workdir}: {_line(manifest)}"


def _line(manifest: dict[str, Any]) -> str:
  kept = ", ".join(f"{k} {v}" for k, v in manifest["used"].items())
  return f"{manifest['rows']} critiques, used {kept}"


class Maker:
  """A run's objects, and what one chunk goes through."""

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    self.config, self.settings = config, config.make_mathcritique_data
    self.workdir = workdir
    self.shop = critiquing.Workshop(config, workdir, self.settings.options)
    self.task, self.template = self.shop.task, self.shop.template
    self.grammar = critiquing.grammar(self.settings.grammar)
    s = self.settings
    self.rule = critique_filter.MonteCarlo(
      max(1, s.mc), s.min_correct, s.tau, s.delta
    )
    if not 0 <= s.positives < 1:
      raise BadConfig(f"positives must lie in [0, 1), got {s.positives}")
    self.figures: dict[str, Any] = {}
    self._problems: list[records.Problem] | None = None

  def problems(self) -> list[records.Problem]:
    if self._problems is None:
      settings = self.settings
      self._problems = self.shop.problems(settings.split, settings.rows)
    return self._problems

  def published(self) -> list[records.Annotated]:
    """Rows of files; only their words are looked at."""
    rows = []
    for path in self.settings.published:
      rows += published.read(build.resolve(path, self.workdir))
    rows = [self._by_words(row) for row in rows]
    records.write(self.workdir / ROWS, rows)
    return rows

  def chunks(self) -> dealt.Chunks:
    return dealt.Chunks(self.problems(), self.settings.chunk)

  def make(self) -> None:
    """This process's chunks; what is on disk is not made again."""
    replies.gather(self.settings, self.workdir)
    distributed.together("earlier replies are in one file")
    path, done_path = (
      dealt.own(self.workdir / name) for name in (ROWS, ATTEMPTS)
    )
    with (
      records.Appender(records.Annotated, path) as rows,
      records.Appender(records.Attempts, done_path) as done,
    ):
      for start, problems in self.chunks().left(done.done):
        found, attempts = self._chunk(problems, start)
        rows.append(r for r in found if r.id not in rows.done)
        rows.settle()
        # Last: a chunk is done once its attempts are there.
        done.append(a for a in attempts if a.id not in done.done)
    distributed.together("all chunks are made")

  def made(self) -> list[records.Annotated]:
    """All rows, in order; for the first process."""
    self.chunks().join(self.workdir / ROWS, self.workdir / ATTEMPTS)
    replies.gather(self.settings, self.workdir)
    found = list(records.read(records.Annotated, self.workdir / ROWS))
    if self.settings.study_shuffled and self.settings.mc:
      self._study(found)
    return found

  def _chunk(self, problems, start):
    if self.settings.actor:
      propose = self.shop.actor(self.settings.actor, self.settings.temperature)
      n = self.settings.samples
      attempts = self.shop.attempts(problems, propose, n, "rg1")
    else:
      attempts = [
        records.Attempts(p.id, p.id, self.task.prompt(p), p.gold, ())
        for p in problems
      ]
    by_problem = {a.problem: a for a in attempts}
    rows = self._flawed(problems, by_problem, start)
    rows = self._annotated(rows)
    return self._judged(rows), attempts

  def _flawed(self, problems, attempts, start) -> list[records.Annotated]:
    """RG1, RG2, RG3 and right ones; golds stand in where none was sampled."""
    s, seed = self.settings, self.config.seed * 1_000_003 + start
    rows, right, actor = [], [], None
    if s.actor:
      actor = flawed.Actor(
        self.shop.actor(s.actor, s.temperature),
        self.template,
        self.shop.sampling(s.temperature),
      )
      rows, right = (
        flawed.sampled(
          self.task,
          problems,
          attempts,
          right=wanted,
          cap=s.rg1_cap,
          temperature=s.temperature,
        )
        for wanted in (False, True)
      )
      rows = rows + self._raised(problems, right, actor, seed)
    solved = {row.problem for row in right}
    golds = [
      flawed.row_of(self.task, p, self.task.target(p), "pos/gold", origin="pos")
      for p in problems
      if p.gold and p.id not in solved
    ]
    return [*rows, *self._planted(problems, actor, seed), *right, *golds]

  def _raised(self, problems, right, actor, seed) -> list[records.Annotated]:
    """RG2, out of one right solution of each problem."""
    s, by_id = self.settings, monte_carlo.by_id(problems)
    hot = flawed.raised(
      self.task,
      by_id,
      list({r.problem: r for r in right}.values()),
      actor,
      ladder=s.ladder,
      tries=s.tries,
      seed=seed,
    )
    return flawed.confirmed(
      self.task,
      by_id,
      hot,
      actor,
      rollouts=s.rollouts,
      temperature=s.rollout_temperature,
      before=s.before,
      collapse=s.collapse,
    )

  def _planted(self, problems, actor, seed) -> list[records.Annotated]:
    s = self.settings
    if not s.planted:
      return []
    if hasattr(self.task, "plant"):
      plant, kinds = flawed.planter_of(self.task), self.task.kinds
    else:
      asked = critiquing.annotators(s, self.shop, self.workdir)
      if asked is None:
        raise BadConfig(
          "this task plants no errors and has no oracle; take another annotator"
        )
      plant, kinds = annotation.planter(asked, self.task), flawed.ERROR_TYPES
    return flawed.planted(
      self.task,
      problems,
      plant,
      s.kinds or kinds,
      actor,
      per_problem=s.planted,
      temperature=s.temperature,
      seed=seed,
      gap=s.gap,
    )

  def _annotated(self, rows) -> list[records.Annotated]:
    """With critiques, where the row is still kept."""
    writer = self._writer(rows)
    live = [row for row in rows if row.kept]
    texts = dict(
      zip((r.id for r in live), writer(live) if live else (), strict=True)
    )
    return [
      self._by_words(dataclasses.replace(row, critique=texts[row.id]))
      if row.kept
      else row
      for row in rows
    ]

  def _writer(self, rows) -> annotation.Writer:
    asked = critiquing.annotators(self.settings, self.shop, self.workdir)
    if asked is not None:
      return annotation.asked(asked)
    by_id = monte_carlo.by_id(self.problems())
    return annotation.oracle(self.task, self.grammar, by_id)

  def _by_words(self, row) -> records.Annotated:
    row = dataclasses.replace(row, critique=self.grammar.stripped(row.critique))
    return monte_carlo.before_sampling(
      row, self.grammar, leaks=self.settings.leaks
    )

  def _judged(self, rows) -> list[records.Annotated]:
    s = self.settings
    if not (s.mc and s.actor):
      return rows
    by_id = monte_carlo.by_id(self.problems())
    live = [row for row in rows if row.kept]
    propose = self.shop.actor(s.actor, s.mc_temperature)
    groups = monte_carlo.refined(live, propose, self.template, n=s.mc)
    control = self._controls(dict.fromkeys(row.problem for row in live))
    judged = {
      row.id: monte_carlo.judged(
        row,
        texts,
        task=self.task,
        problem=by_id[row.problem],
        control=control[row.problem],
        rule=self.rule,
      )
      for row, texts in zip(live, groups, strict=True)
    }
    return [judged.get(row.id, row) for row in rows]

  def _controls(self, names: Iterable[str]) -> dict[str, float]:
    """The share of right ones among as many samples without a critique, at
    the temperature of the refinements: a cooler one alone is no advantage."""
    s, by_id = self.settings, monte_carlo.by_id(self.problems())
    propose = self.shop.actor(s.actor, s.mc_temperature)
    problems = [by_id[name] for name in names]
    return {
      a.problem: float(np.mean([c.correct for c in a.candidates]))
      for a in self.shop.attempts(problems, propose, s.mc, "control")
    }

  def _study(self, rows: Sequence[records.Annotated]) -> None:
    """How many critiques of other problems the same filter keeps."""
    s, by_id = self.settings, monte_carlo.by_id(self.problems())
    wrong = [r for r in rows if r.mc and not r.right][:_STUDIED]
    mixed = monte_carlo.shuffled(wrong)
    groups = monte_carlo.refined(
      mixed,
      self.shop.actor(s.actor, s.mc_temperature),
      self.template,
      n=s.mc,
      name="shuffled",
    )
    kept = [
      monte_carlo.judged(
        row,
        texts,
        task=self.task,
        problem=by_id[row.problem],
        control=row.mc.get("control"),
        rule=self.rule,
      ).kept
      for row, texts in zip(mixed, groups, strict=True)
    ]
    if not mixed:
      return
    self.figures["filter_kept_percent"] = {
      "own critique": 100 * float(np.mean([r.kept for r in wrong])),
      "another problem's": 100 * float(np.mean(kept)),
      "rows": len(wrong),
    }


if __name__ == "__main__":
  launch.run(main, SECTIONS)
