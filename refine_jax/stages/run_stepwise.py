"""Answers problems step by step, one arm after another; one table of all.

An arm is a selector with its models; see `config.stepwise_arm`. Each writes
<workdir>/<arm>/trajectories.jsonl and summary.json; an arm that is complete
is not run again. table.json and table.md compare them, paired.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import comparison, evaluation, selectors, stepwise
from refine_jax.methods.layout import Layout, fingerprint
from refine_jax.methods.voices import Agent, Scorer, Writer
from refine_jax.records import Sample, Trajectory
from refine_jax.sampling.settings import Request
from refine_jax.stages import build, distributed, launch, roles
from refine_jax.stages.reading import BadConfig

SECTIONS = ("seed", "task", "mesh", "engine", "layouts", "run_stepwise")


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Runs every arm.

  1. Read the problems.
  2. Per arm: build its roles, advance all problems together, block by block.
  3. Compare the arms, and those of other runs if they were asked alike.
  """
  settings = config.run_stepwise
  bench = Bench(config, workdir)
  for name in settings.order:
    folder = workdir / name
    if not (folder / "summary.json").exists():
      bench.run(name, folder)
    print(_said(name, folder), flush=True)
  arms = [arm_of(workdir / name) for name in settings.order]
  arms += [arm_of(build.resolve(path, workdir)) for path in settings.others]
  rows = comparison.table(arms, settings.references, seed=config.seed)
  table = json.dumps(rows, indent=2) + "\n"
  files.write(workdir / "table.json", table)
  text = comparison.markdown(rows, settings.references)
  files.write(workdir / "table.md", text + "\n")
  return f"Answered {len(bench.problems)} problems in {len(arms)} arms"


def arm_of(folder: pathlib.Path) -> comparison.Arm:
  """A finished arm, as the comparison wants it."""
  summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
  rows = list(records.read(Trajectory, folder / "trajectories.jsonl"))

  def column(key):
    return {row.problem: row.meta[key] for row in rows}

  return comparison.Arm(
    name=folder.name,
    prompt=summary["prompt"],
    correct=column("correct"),
    unparsed=column("unparsed"),
    stuck={row.problem: row.meta["finish"] != "answer" for row in rows},
    tokens={row.problem: sum(t.spent for t in row.turns) for row in rows},
    calls=column("calls"),
  )


def _said(name: str, folder: pathlib.Path) -> str:
  summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
  return (
    f"{name}: {summary['accuracy']:.1f} %, {summary['unparsed']:.1f} %"
    f" unparsed, {summary['stuck']:.1f} % without an answer,"
    f" {summary['tokens_per_problem']:.1f} tokens per problem"
  )


class Bench:
  """The problems, and models that several arms share."""

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
    self.by_id = {p.id: p for p in self.problems}
    self.before = settings.before + self._shots()
    self.questions = {
      p.id: f"{self.before}{self.task.prompt(p)}{settings.after}"
      for p in self.problems
    }
    self._models: dict[str, build.Model] = {}

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

  def run(self, name: str, folder: pathlib.Path) -> None:
    """One arm from its first problem to its summary."""
    arm = self.settings.arms[name]
    made, work = [], {}
    for start in range(0, len(self.problems), self.settings.together):
      block = self.problems[start : start + self.settings.together]
      pairs = [(p.id, self.questions[p.id]) for p in block]
      if arm.selector == "vote":
        made += self._vote(arm, block)
        continue
      selector, kept = self._selector(arm)
      agent = self._agent(arm)
      lives = stepwise.solve(
        pairs, agent, selector, self._rules(arm), self._answered
      )
      made += [self._judged(stepwise.trajectory(x)) for x in lives]
      for role, trunks in {"agent": agent.trunks, **kept}.items():
        _add(work.setdefault(role, {}), dataclasses.asdict(trunks.work))
    folder.mkdir(parents=True, exist_ok=True)
    records.write(folder / "trajectories.jsonl", made)
    self._summary(arm, made, work, folder)

  def _summary(self, arm, made, work, folder) -> None:
    def share(key):
      return 100 * sum(t.meta[key] for t in made) / len(made)

    tokens = sum(t.spent for row in made for t in row.turns)
    judged = [note["unparsed"] for row in made for note in row.meta["rounds"]]
    summary = {
      "prompt": self.prompt,
      "arm": arm.to_dict(),
      "problems": len(made),
      "accuracy": share("correct"),
      "unparsed": share("unparsed"),
      "stuck": 100
      * sum(t.meta["finish"] != "answer" for t in made)
      / len(made),
      "judge_unparsed": sum(judged),
      "tokens_per_problem": tokens / len(made),
      "calls_per_problem": sum(t.meta["calls"] for t in made) / len(made),
      "work": work,
    }
    text = json.dumps(summary, indent=2) + "\n"
    files.write(folder / "summary.json", text)

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

  def _answered(self, steps: Sequence[str]) -> bool:
    """Whether the steps hold an answer: announced by a phrase, and read."""
    text = "\n".join(steps).lower()
    phrases = self.settings.answers
    if phrases and not any(p.lower() in text for p in phrases):
      return False
    return self.task.answer("\n".join(steps)) is not None

  def _rules(self, arm) -> stepwise.Rules:
    return stepwise.Rules(
      candidates=arm.candidates or self.settings.candidates,
      cap=self.settings.cap,
      late_stop=self.settings.late_stop,
    )

  # Roles.

  def model(self, path: str) -> build.Model:
    if path not in self._models:
      self._models[path] = roles.model(path, self.config, self.workdir)
    return self._models[path]

  def _agent(self, arm) -> Agent:
    model = self.model(arm.agent or self.settings.agent)
    sampling = roles.sampling(
      self.settings.step, self.settings.stop, model, self.config.seed
    )
    if arm.temperature >= 0:
      sampling = build.at_temperature(sampling, arm.temperature)
    return Agent(self._trunks(model), self._layout("agent"), sampling)

  def _trunks(self, model: build.Model):
    section = self.settings.trunks.copy_and_resolve_references()
    section.slots = min(section.slots, self.settings.together)
    return roles.trunks(model, section)

  def _layout(self, role: str) -> Layout:
    return roles.layout(self.config.layouts[role])

  def _writing(self, model: build.Model):
    return roles.sampling(
      self.settings.rationale,
      self.settings.rationale_stop,
      model,
      self.config.seed,
    )

  def _selector(self, arm) -> tuple[selectors.Selector, dict[str, Any]]:
    """An arm's selector, and the trunks of its roles."""
    kind, settings = arm.selector, self.settings
    if kind == "first":
      return selectors.First(), {}
    if kind == "random":
      return selectors.Random(self.config.seed), {}
    writing = self.model(arm.writer or settings.writer)
    if kind in ("likelihood", "implicit", "shuffled"):
      model = self.model(settings.scorer)
      scorer = Scorer(self._trunks(model), self._layout("scorer"))
      if kind == "likelihood":
        found = selectors.Likelihood(scorer, arm.aggregate)
        return found, {"scorer": scorer.trunks}
      writer = Writer(
        self._trunks(writing), self._layout("writer"), self._writing(writing)
      )
      found = selectors.Implicit(
        scorer, writer, arm.aggregate, kind == "shuffled"
      )
      return found, {"scorer": scorer.trunks, "writer": writer.trunks}
    if kind == "reward":
      judge = self.model(settings.judge or settings.scorer)
      return selectors.Reward(self._ask(judge, "judge")), {}
    ask = self._ask(writing, "writer")
    if kind == "rationale_confidence":
      return selectors.RationaleConfidence(ask), {}
    if kind == "explicit":
      return selectors.Explicit(ask, settings.ready), {}
    raise BadConfig(f"no selector {kind!r}")

  def _ask(self, model: build.Model, role: str) -> selectors.Ask:
    """Greedy texts on whole trajectories."""
    sampling = self._writing(model)
    engine = build.engine(model, self.config.engine, sampling.max_tokens)
    layout, calls = self._layout(role), iter(range(1 << 60))

    def ask(trajectories) -> list[Sample]:
      requests = [
        Request(f"ask/{next(calls)}", layout.whole(question, steps))
        for question, steps in trajectories
      ]
      return [s for (s,) in engine.generate(model.params, requests, sampling)]

    return ask

  # Majority vote.

  def _vote(self, arm, block) -> list[Trajectory]:
    """Whole solutions, voting with as many tokens as another arm used."""
    path = self.workdir / arm.budget_of / "summary.json"
    budget = json.loads(path.read_text())["tokens_per_problem"]
    chains: dict[str, list[Trajectory]] = {p.id: [] for p in block}
    rules = dataclasses.replace(self._rules(arm), candidates=1)
    agent = self._agent(arm)
    for k in range(arm.candidates):
      pairs = [(f"{p.id}#{k}", self.questions[p.id]) for p in block]
      lives = stepwise.solve(
        pairs, agent, selectors.First(), rules, self._answered
      )
      for problem, live in zip(block, lives, strict=True):
        chains[problem.id].append(stepwise.trajectory(live))
    return [self._voted(p, chains[p.id], budget) for p in block]

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
    turn = records.Turn(hypothesis=text, spent=spent)
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


def _add(total: dict[str, int], more: dict[str, int]) -> None:
  for key, value in more.items():
    total[key] = total.get(key, 0) + value


if __name__ == "__main__":
  launch.run(distributed.alone(main, lambda config: True), SECTIONS)
