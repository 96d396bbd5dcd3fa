"""One iteration of self-improvement with critiques in the loop: its rows.

Writes explored.jsonl (what the last actor sampled), solutions.jsonl (verified
ones, refinements included), current.jsonl (D_t), examples.jsonl (S_t, for
train_generator), critiques.jsonl (those whose refinement was verified, for a
critic that is to learn along) and manifest.json. Can be killed at any moment
and started again. Several processes share the chunks; the first puts their
rows together.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from refine_jax import records
from refine_jax.methods import (
  critique_filter,
  difficulty,
  monte_carlo,
  self_improve,
  self_training,
  step_critics,
)
from refine_jax.methods.self_improve import Solution
from refine_jax.sampling.settings import Request
from refine_jax.stages import build, critiquing, dealt, distributed, launch
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
  "make_self_improve_data",
)
EXPLORED, SOLUTIONS = "explored.jsonl", "solutions.jsonl"
OUTPUTS = (
  EXPLORED,
  SOLUTIONS,
  "current.jsonl",
  "examples.jsonl",
  "critiques.jsonl",
)
MODES = ("critic", "vanilla", "matched")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Makes one iteration's rows.

  1. Chunk by chunk: sample, check; criticise what is wrong, refine it, check.
  2. Barrier, distinct ones, cap, balance: D_t.
  3. The union that the flags ask for: S_t; then the manifest.
  """
  if found := distributed.spoken(critiquing.sealed(workdir)):
    return f"{workdir} is complete: {found['examples']} examples"
  explorer = Explorer(config, workdir)
  explorer.explore()
  return distributed.by_first(lambda: _line(_assemble(explorer), workdir))


def _line(manifest: dict[str, Any], workdir: pathlib.Path) -> str:
  return (
    f"Wrote {workdir}: {manifest['examples']} examples,"
    f" {manifest['current']} of this iteration"
    f" ({manifest['refined']} refined);"
    f" {manifest['solved']} of {manifest['problems']} problems solved"
  )


class Explorer:
  """Actor and critic side by side, over chunks of problems."""

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    self.config, self.settings = config, config.make_self_improve_data
    self.workdir = workdir
    if self.settings.explore not in MODES:
      raise BadConfig(
        f"explore is one of {', '.join(MODES)}, not {self.settings.explore!r}"
      )
    self.shop = critiquing.Workshop(config, workdir, self.settings.options)
    self.task, self.template = self.shop.task, self.shop.template
    self.grammar = critiquing.grammar(self.settings.grammar)
    self.problems = self.shop.problems(self.settings.split, self.settings.rows)
    self.by_id = monte_carlo.by_id(self.problems)
    self.chunks = dealt.Chunks(self.problems, self.settings.chunk)

  def explore(self) -> None:
    """Writes what is not on disk yet of this process's chunks."""
    solved, path = (
      dealt.own(self.workdir / name) for name in (SOLUTIONS, EXPLORED)
    )
    with (
      records.Appender(Solution, solved) as found,
      records.Appender(records.Attempts, path) as explored,
    ):
      for _, problems in self.chunks.left(explored.done):
        attempts, solutions = self._chunk(problems)
        found.append(s for s in solutions if s.id not in found.done)
        found.settle()
        # Last: a chunk is done once its attempts are there.
        explored.append(a for a in attempts if a.id not in explored.done)
    distributed.together("all chunks are explored")

  def _chunk(self, problems):
    s = self.settings
    propose = self.shop.actor(s.actor, s.temperature)
    name = f"explore{len(s.previous)}"  # each iteration has its own noise
    attempts = self.shop.attempts(problems, propose, s.samples, name)
    if s.explore == "matched":
      attempts = self._more(problems, attempts, propose)
    solutions = [one for row in attempts for one in self._direct(row)]
    if s.explore == "critic" and s.use_critic:
      solutions += self._refined(attempts, propose)
    return attempts, solutions

  def _more(self, problems, attempts, propose) -> list[records.Attempts]:
    """As many further samples as refinements would have cost."""
    asked, owners = [], []
    for problem, row in zip(problems, attempts, strict=True):
      n = len(row.candidates)
      wrong = sum(_criticised(c) for c in row.candidates)
      count = self_improve.matched_samples(
        n, 1 - wrong / n, self.settings.refinements
      ) - n  # fmt: skip
      if count:
        prompt = self.template.first(self.task.prompt(problem))
        name = f"{problem.id}/more{len(self.settings.previous)}"
        asked.append(Request(name, prompt, n=count))
        owners.append(problem)
    extra = self_training.checked(self.task, owners, propose(asked))
    more = {row.problem: row.candidates for row in extra}
    return [
      dataclasses.replace(
        row, candidates=row.candidates + more.get(row.problem, ())
      )
      for row in attempts
    ]

  def _direct(self, row: records.Attempts) -> list[Solution]:
    return [
      Solution(
        f"{row.problem}/y{i}",
        row.problem,
        row.question,
        c.text,
        self_improve.key(c.text),
      )
      for i, c in enumerate(row.candidates)
      if c.correct and c.finish == "eos"
    ]

  def _refined(self, attempts, propose) -> list[Solution]:
    """Of each criticised response at most `reserved` verified refinements."""
    wrong = [
      (row, i, c)
      for row in attempts
      for i, c in enumerate(row.candidates)
      if _criticised(c)
    ]
    if not wrong:
      return []
    critic = step_critics.model(
      self.shop.critic(self.settings.critic), self.template, self.grammar
    )
    asked = [
      records.Trajectory(
        f"{row.problem}/y{i}",
        row.problem,
        row.question,
        (records.Turn(c.text),),
      )
      for row, i, c in wrong
    ]
    said = critic(asked)
    prompts = [
      Request(
        f"{t.id}/refined",
        self.template.revision(
          t.question, t.turns[0].hypothesis, f.tokens or f.text
        ),
        n=self.settings.refinements,
      )
      for t, f in zip(asked, said, strict=True)
    ]
    groups = propose(prompts)
    made = []
    for t, f, group in zip(asked, said, groups, strict=True):
      made += self._verified(t, f.text, [s for s in group if s.finish == "eos"])
    return made

  def _verified(self, trajectory, critique, samples) -> list[Solution]:
    problem = self.by_id[trajectory.problem]
    texts = [sample.text for sample in samples]
    response = trajectory.turns[0].hypothesis
    found = []
    right = self.task.check_all([problem] * len(texts), texts)
    for i, (text, fine) in enumerate(zip(texts, right, strict=True)):
      short = self.settings.barrier and critique_filter.shortcut(
        text, response, self.task.target(problem)
      )
      if fine and not short and len(found) < self.settings.reserved:
        found.append(
          Solution(
            f"{trajectory.id}/r{i}",
            problem.id,
            trajectory.question,
            text,
            self_improve.key(text),
            response,
            critique or " ",
          )
        )
    return found


def _criticised(candidate: records.Candidate) -> bool:
  """Wrong, and ended by itself: a text that was cut off is neither learned
  from nor criticised."""
  return not candidate.correct and candidate.finish == "eos"


def _assemble(explorer: Explorer) -> dict[str, Any]:
  s, workdir = explorer.settings, explorer.workdir
  config = explorer.config
  working = workdir / EXPLORED, workdir / SOLUTIONS
  explorer.chunks.join(*working)
  every = _in_order(
    records.read(Solution, workdir / SOLUTIONS), explorer.problems
  )
  bin_of = _bins(explorer)
  kept = self_improve.distinct(every) if s.distinct else every
  kept = self_improve.capped(kept, s.cap, seed=config.seed)
  kept = self_improve.balanced(kept, bin_of, s.balance, seed=config.seed)
  flags = self_improve.Flags(
    s.use_critic and s.explore == "critic",
    s.use_original,
    s.use_previous,
    s.own_feedback,
    s.annotator_feedback,
  )
  name = workdir.name  # rows of several iterations lie side by side
  current = [
    dataclasses.replace(row, id=f"{name}/{row.id}")
    for row in self_improve.made(
      *self_improve.examples(kept, explorer.template, weight=s.refine_weight),
      flags,
    )
  ]
  union = self_improve.union(
    current,
    flags,
    reason0=_reasoning(explorer) if flags.use_original else [],
    refine0=_read(s.refine0, workdir)
    if flags.use_original and flags.annotator_feedback
    else [],
    previous=[_read(f"{p}/current.jsonl", workdir) for p in s.previous],
  )
  records.write(workdir / "current.jsonl", current)
  records.write(workdir / "examples.jsonl", union)
  records.write(
    workdir / "critiques.jsonl", (_critique(x) for x in every if x.refined)
  )
  manifest = critiquing.seal(
    workdir,
    {
      "problems": len(explorer.problems),
      "solved": len({x.problem for x in every}),
      "solutions": len(every),
      "refined": sum(x.refined for x in kept),
      "current": len(current),
      "examples": len(union),
      "hardest": _hardest(every, bin_of),
      **_figures(kept, every, bin_of, s.bins),
    },
    OUTPUTS,
  )
  dealt.remove(*working)
  return manifest


def _in_order(
  solutions: Iterable[Solution], problems: Sequence[records.Problem]
) -> list[Solution]:
  groups = collections.defaultdict(list)
  for one in solutions:
    groups[one.problem].append(one)
  return [one for p in problems for one in groups[p.id]]


def _bins(explorer: Explorer) -> dict[str, int]:
  """Difficulty by pass rates: an earlier folder's samples, or these."""
  s = explorer.settings
  path = explorer.workdir / EXPLORED
  if s.difficulty:
    path = build.resolve(s.difficulty, explorer.workdir)
  rates = difficulty.pass_rates(
    (row.problem, [c.correct for c in row.candidates])
    for row in records.read(records.Attempts, path)
  )
  missing = [p.id for p in explorer.problems if p.id not in rates]
  if missing:
    raise records.BadRow(
      f"{len(missing)} problems have no samples, {missing[0]!r} among them",
      file=str(path),
    )
  bin_of = difficulty.bins(rates, s.bins)
  return {p.id: bin_of[p.id] for p in explorer.problems}


def _figures(kept, every, bin_of, bins) -> dict[str, Any]:
  """Tail and diversity, of what is trained on and of all that was found."""
  found = {}
  for name, rows in (("trained", kept), ("verified", every)):
    texts = collections.defaultdict(list)
    for one in rows:
      texts[one.problem].append(one.text)
    keys = {p: list(map(self_improve.key, group)) for p, group in texts.items()}
    found[name] = {
      **difficulty.profile(texts, bin_of, bins, self_improve.key),
      **{f"all_{k}": v for k, v in difficulty.diversity(keys).items()},
    }
  return json.loads(json.dumps(found).replace("NaN", "null"))


def _hardest(every, bin_of) -> dict[str, int]:
  """Whether each problem of the hardest bin was solved, for paired figures."""
  solved = {one.problem for one in every}
  return {p: int(p in solved) for p, b in bin_of.items() if b == 0}


def _reasoning(explorer: Explorer) -> list[records.Example]:
  task, template = explorer.task, explorer.template
  if explorer.settings.reason0:
    return _read(explorer.settings.reason0, explorer.workdir)
  return [
    records.Example(
      f"{p.id}/gold", template.first(task.prompt(p)), (task.target(p),)
    )
    for p in explorer.problems
  ]


def _read(path: str, workdir: pathlib.Path) -> list[records.Example]:
  return list(records.read(records.Example, build.resolve(path, workdir)))


def _critique(one: Solution) -> records.Critique:
  return records.Critique(
    id=one.id,
    problem=one.problem,
    question=one.question,
    hypothesis=one.response,
    feedback=one.critique,
    gold=one.text,
    errors=("unknown",),
    origin="sampled",
  )


if __name__ == "__main__":
  launch.run(main, SECTIONS)
