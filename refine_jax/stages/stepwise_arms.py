"""How an arm of run_stepwise answers problems: step by step, or by a vote."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from refine_jax.methods import evaluation, selectors, stepwise
from refine_jax.methods.layout import fingerprint
from refine_jax.records import Problem, Sample, Trajectory, Turn
from refine_jax.stages import build, distributed
from refine_jax.stages.reading import BadConfig
from refine_jax.stages.stepwise_roles import Cast

SUMMARY = "summary.json"

# Role -> counts of what it did; see `trunks.Work`.
Work = dict[str, dict[str, int]]
# A block of problems -> their trajectories, and the work they took.
Answer = Callable[[Sequence[Problem]], tuple[list[Trajectory], Work]]


class Bench:
  """The problems, how they are asked, and what becomes of them in an arm."""

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    settings = config.run_stepwise
    self.config, self.workdir, self.settings = config, workdir, settings
    self.task = build.task(config.task, settings.options)
    self.problems = build.problems(
      self.task,
      settings.split,
      config.data,
      rows=(settings.rows[0], settings.rows[1] or None),
    )
    together = min(settings.together, len(self.problems))
    if settings.trunks.slots < together:
      raise BadConfig(
        f"run_stepwise.together: {together} problems are answered together,"
        f" and run_stepwise.trunks.slots has room for {settings.trunks.slots}"
      )
    self.by_id = {p.id: p for p in self.problems}
    self.before = settings.before + self._shots()
    self.questions = {
      p.id: f"{self.before}{self.task.prompt(p)}{settings.after}"
      for p in self.problems
    }
    self.cast = Cast(config, workdir)

  def _shots(self) -> str:
    """Solved problems of another split, always the same ones."""
    settings = self.settings
    if not settings.shots:
      return ""
    solved = build.problems(
      self.task, settings.shot_split, self.config.data, rows=(0, 2000)
    )
    solved = [p for p in solved if self.task.target(p).strip()]
    rng = np.random.default_rng(settings.shot_seed)
    chosen = rng.permutation(len(solved))[: settings.shots]
    return "".join(
      f"{self.task.prompt(solved[i])}{settings.after}"
      f"{self.task.target(solved[i])}\n\n"
      for i in chosen
    )

  @property
  def prompt(self) -> str:
    """What makes figures comparable: the prompt, stop and extraction."""
    settings, layout = self.settings, self.config.layouts.agent
    return fingerprint(
      layout.to_dict(),
      self.before,
      settings.after,
      tuple(settings.stop),
      tuple(settings.answers),
      self.config.task.to_dict(),
      settings.agent,
      settings.split,
    )

  def answer(self, arm: ConfigDict) -> Answer:
    """How an arm answers a block; all processes ask, before their blocks.

    Raises:
      BadConfig: a vote may spend what an arm did that has not run yet.
    """
    if arm.selector != "vote":
      return functools.partial(self._solve, arm)
    path = self.workdir / arm.budget_of / SUMMARY
    other = distributed.found(path)
    if other is None:
      raise BadConfig(
        f"a vote spends what arm {arm.budget_of!r} did, which comes before it"
        f" in run_stepwise.order: there is no {path}"
      )
    return functools.partial(self._vote, arm, other["tokens_per_problem"])

  def _solve(self, arm, block) -> tuple[list[Trajectory], Work]:
    selector, kept = self.cast.selector(arm)
    agent = self.cast.agent(arm)
    lives = stepwise.solve(
      [(p.id, self.questions[p.id]) for p in block],
      agent,
      selector,
      self.cast.rules(arm),
      self._answered,
    )
    work = {
      role: dataclasses.asdict(trunks.work)
      for role, trunks in {"agent": agent.trunks, **kept}.items()
    }
    return [self._judged(stepwise.trajectory(x)) for x in lives], work

  def _answered(self, steps: Sequence[str]) -> bool:
    """Whether the steps hold an answer: announced by a phrase, and read."""
    text = "\n".join(steps).lower()
    phrases = self.settings.answers
    if phrases and not any(p.lower() in text for p in phrases):
      return False
    return self.task.answer("\n".join(steps)) is not None

  def _judged(self, row: Trajectory) -> Trajectory:
    """With whether it is right; what cannot be read is wrong, and said."""
    problem, text = self.by_id[row.problem], row.meta["completion"]
    answer = self.task.answer(text) if row.meta["finish"] == "answer" else None
    meta = {
      **row.meta,
      "answer": answer,
      "unparsed": answer is None,
      "correct": answer is not None and bool(self.task.check(problem, text)),
    }
    return dataclasses.replace(row, gold=problem.gold, meta=meta)

  def _vote(self, arm, budget, block) -> tuple[list[Trajectory], Work]:
    """Whole solutions, voting with as many tokens as another arm used."""
    chains: dict[str, list[Trajectory]] = {p.id: [] for p in block}
    rules = dataclasses.replace(self.cast.rules(arm), candidates=1)
    agent = self.cast.agent(arm)
    for k in range(arm.candidates):
      pairs = [(f"{p.id}#{k}", self.questions[p.id]) for p in block]
      lives = stepwise.solve(
        pairs, agent, selectors.First(), rules, self._answered
      )
      for problem, live in zip(block, lives, strict=True):
        chains[problem.id].append(stepwise.trajectory(live))
    return [self._voted(p, chains[p.id], budget) for p in block], {}

  def _voted(self, problem, found, budget) -> Trajectory:
    samples = [
      Sample(
        row.id,
        row.meta["completion"],
        tuple(i for turn in row.turns for i in turn.tokens),
        (),
        (),
        "eos" if row.meta["finish"] == "answer" else "length",
      )
      for row in found
    ]
    text, spent = evaluation.self_consistency(self.task, samples, budget)
    turn = Turn(hypothesis=text, spent=spent)
    chosen = next((r for r in found if r.meta["completion"] == text), found[0])
    meta = {"completion": text, "finish": chosen.meta["finish"], "rounds": []}
    calls, used = 0, 0
    for chain, sample in zip(found, samples, strict=True):
      used += len(sample.tokens)
      calls += chain.meta["calls"] if used <= spent else 0
    row = Trajectory(
      problem.id,
      problem.id,
      self.questions[problem.id],
      (turn,),
      meta={**meta, "calls": calls},
    )
    return self._judged(row)
