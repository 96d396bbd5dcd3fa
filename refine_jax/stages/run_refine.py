"""Answers problems turn by turn under a critic, one arm after another.

An arm is a critic with a way of using it; see `config.arm`. Each writes
<workdir>/<arm>/trajectories.jsonl and summary.json; an arm that is complete
is not run again. Several processes answer on one mesh, in lockstep, and write
and judge a shard each.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from refine_jax import files, records
from refine_jax.methods import critics, evaluation, refine
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.session import Session
from refine_jax.sampling.settings import Request
from refine_jax.stages import build, critique_arms, distributed, launch
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
  "run_refine",
)


def main(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Runs every arm.

  1. Read the problems.
  2. Per arm: build its critic, run the loop, take the task's figures.
  3. Write trajectories and a summary; print one line per arm.
  """
  settings = config.run_refine
  bench = Bench(config, workdir)
  names = [n for n in settings.only or settings.order if _mine(n, settings)]
  for name in names:
    folder = workdir / name
    if not distributed.spoken((folder / "summary.json").exists()):
      bench.run(name, folder)
    distributed.tell(_line(name, folder))
  return f"Answered {len(bench.problems)} problems in {len(names)} arms"


def _mine(name: str, settings: ConfigDict) -> bool:
  """Whether an arm belongs to this process's share."""
  if name not in settings.arms:
    raise BadConfig(f"no arm {name!r}; there are {list(settings.order)}")
  trained = settings.arms[name].critic in ("model", "self", "vote")
  return settings.share in ("", "critic" if trained else "rest")


class Bench:
  """The problems, and models that several arms share."""

  def __init__(self, config: ConfigDict, workdir: pathlib.Path):
    settings = config.run_refine
    self.config, self.workdir, self.settings = config, workdir, settings
    self.task = build.task(config.task)
    self.template = build.template(config.template)
    self.mesh = build.mesh(config.mesh)
    self.problems = build.problems(
      self.task,
      settings.split,
      config.data,
      rows=(settings.rows[0], settings.rows[1] or None),
    )
    self.by_id = {p.id: p for p in self.problems}
    self.questions = {p.id: self.task.prompt(p) for p in self.problems}
    self._models: dict[str, tuple[build.Model, Any]] = {}
    self._known: dict[Any, dict[records.Prompt, records.Sample]] = {}
    self._sessions: dict[int, Session] = {}

  def run(self, name: str, folder: pathlib.Path) -> None:
    arm = self.settings.arms[name]
    if "gate" in arm:
      critique_arms.run(self, name, folder)
      return
    turns = arm.turns or self.settings.turns
    if arm.critic in ("vote", "constant"):
      alone = self._vote if arm.critic == "vote" else self._constant
      done, turns = alone(arm), 1
    else:
      done = self._refine(arm, turns)
    done = self.write(
      folder,
      done,
      lambda t: self._readable(
        evaluation.with_metrics(self.task, self.by_id, t)
      ),
    )

    def summary():
      made = evaluation.summary(done, turns=turns, seed=self.config.seed)
      if arm.critic in ("model", "self"):
        made["critic"] = evaluation.critic_report(self.task, self.by_id, done)
      return made

    self.conclude(folder, summary)

  def write(
    self,
    folder: pathlib.Path,
    done: Sequence[records.Trajectory],
    judged: Callable[[records.Trajectory], records.Trajectory],
  ) -> list[records.Trajectory]:
    """Judges and writes this process's share; returns those of all."""
    index, count = jax.process_index(), jax.process_count()
    path = folder / "trajectories.jsonl"
    if index == 0:
      # An arm that was cut short may have been that of more processes.
      for old in folder.glob("trajectories*.jsonl"):
        old.unlink()
    distributed.together(f"{folder} is empty")
    mine = [judged(t) for t in done[index::count]]
    records.write(records.shard(path, index, count), mine)
    distributed.together(f"{path} is written")
    return mine if count == 1 else list(records.read(records.Trajectory, path))

  def conclude(
    self, folder: pathlib.Path, summary: Callable[[], Mapping[str, Any]]
  ) -> None:
    """Writes summary.json, which is the mark of a complete arm."""
    path = folder / "summary.json"
    if jax.process_index() == 0:
      files.write(path, json.dumps(summary(), indent=2) + "\n")
    distributed.together(f"{path} is written")

  def _refine(self, arm: ConfigDict, turns: int) -> list[records.Trajectory]:
    first = arm.generator or self.settings.generator
    later = arm.reviser or self.settings.reviser
    revise = self.propose(later, self._sampling(arm))
    if arm.words == "hidden":
      revise = self._again(first, arm)
    return refine.refine(
      [refine.start(p, self.questions[p.id]) for p in self.problems],
      propose=self.propose(first, self._greedy()),
      revise=revise,
      critic=distributed.agreed(self._critic(arm, later)),
      template=self.template,
      turns=turns,
      candidates=arm.candidates,
    )

  def _critic(self, arm: ConfigDict, reviser: str) -> refine.Critic:
    task, seed = self.task, self.config.seed
    oracle = critics.oracle(task.feedback, self.by_id, task.no_hint)
    kinds = {
      "oracle": lambda: oracle,
      "none": lambda: critics.none,
      "model": lambda: self._model_critic(self.settings.critic),
      "self": lambda: self._model_critic(reviser),
      "manual": self._person,
    }
    if arm.critic not in kinds:
      known = ", ".join((*kinds, "vote", "constant"))
      raise BadConfig(f"an arm's critic is one of {known}, not {arm.critic!r}")
    critic = kinds[arm.critic]()
    pool = list(self.settings.noise_words)
    if not pool and (arm.noise or arm.words == "shuffled"):
      pool = critics.words_of(task, self.problems[:200])
    if arm.noise:
      critic = critics.noisy(critic, rate=arm.noise, pool=pool, seed=seed)
    if arm.words == "shuffled":
      critic = critics.shuffled(critic, pool=pool, seed=seed)
    if arm.verdict == "oracle":
      critic = critics.verdict_of(oracle, critic)
    return critic

  def _person(self) -> refine.Critic:
    if jax.process_count() > 1:
      raise BadConfig("a manual critic sits at one process, not at several")
    return critics.manual(input, self.task.no_hint)

  def _model_critic(self, path: str) -> refine.Critic:
    sampling = build.sampling(self.config.feedback, self.config.seed)
    generate = self.propose(path, sampling, critic=True)
    return critics.model(generate, self.template, self.task.no_hint)

  def _again(self, path: str, arm: ConfigDict) -> refine.Proposer:
    """Answers the bare question anew, whatever the prompt would have said."""
    propose = self.propose(path, self._sampling(arm))

    def revise(requests):
      bare = [
        dataclasses.replace(
          r, prompt=self.template.first(self.questions[_problem_of(r)])
        )
        for r in requests
      ]
      return propose(bare)

    return revise

  def _vote(self, arm: ConfigDict) -> list[records.Trajectory]:
    """Self-consistency with as many tokens as another arm used on average."""
    path = self.workdir / arm.budget_of / "summary.json"
    budget = json.loads(path.read_text())["tokens_per_problem"]
    propose = self.propose(
      arm.generator or self.settings.generator, self._sampling(arm)
    )
    requests = [
      Request(
        f"{p.id}/vote",
        self.template.first(self.questions[p.id]),
        n=arm.candidates,
      )
      for p in self.problems
    ]
    done = []
    for problem, samples in zip(self.problems, propose(requests), strict=True):
      text, spent = evaluation.self_consistency(self.task, samples, budget)
      done.append(self._answered(problem, text, spent))
    return done

  def _constant(self, arm: ConfigDict) -> list[records.Trajectory]:
    """The same answer to everything, the best there is of them."""
    del arm
    seen = build.problems(
      self.task, self.settings.floor_split, self.config.data
    )
    text = evaluation.constant(
      self.task, self.problems, (self.task.target(p) for p in seen)
    )
    return [self._answered(p, text, 0) for p in self.problems]

  def _answered(
    self, problem: records.Problem, text: str, spent: int
  ) -> records.Trajectory:
    start = refine.start(problem, self.questions[problem.id])
    turn = records.Turn(hypothesis=text, spent=spent)
    return dataclasses.replace(start, turns=(turn,))

  def propose(
    self, path: str, sampling, *, critic=False, names=None
  ) -> refine.Proposer:
    """Who answers with a checkpoint; a greedy one remembers its answers.

    With `names`, see `build.conversing`, on rows that outlive the turn.
    """
    engine = self.engine(path, critic=critic)
    if names is None:
      propose = build.proposer(engine, self.model(path)[0].params, sampling)
    else:
      session = self.session(path, critic=critic)
      propose = build.conversing(session, sampling, names)
    if sampling.temperature:
      return propose
    # Arms share their first turns and what the critic says of them.
    known = self._known.setdefault((path, sampling), {})
    return remembering(propose, known)

  def engine(self, path: str, *, critic=False) -> Engine:
    """A checkpoint's engine, as actor or as critic."""
    model, engines = self.model(path)
    section = self.settings.critic_engine if critic else self.config.engine
    length = (
      self.config.feedback if critic else self.config.completion
    ).max_tokens
    if length not in engines:
      engines[length] = build.engine(model, section, length)
    return engines[length]

  def session(self, path: str, *, critic=False) -> Session:
    """The one session of a checkpoint's engine."""
    engine = self.engine(path, critic=critic)
    if id(engine) not in self._sessions:
      params = self.model(path)[0].params
      self._sessions[id(engine)] = engine.session(params)
    return self._sessions[id(engine)]

  def model(self, path: str):
    """A checkpoint's model, loaded once, and its engines."""
    if path not in self._models:
      where = build.resolve(path, self.workdir)
      self._models[path] = (build.load_model(where, self.mesh), {})
    return self._models[path]

  def _greedy(self):
    sampling = build.sampling(self.config.completion, self.config.seed)
    return build.at_temperature(sampling, 0.0)

  def _sampling(self, arm: ConfigDict):
    sampling = build.sampling(self.config.completion, self.config.seed)
    wanted = self.settings.temperature
    if arm.temperature >= 0:
      wanted = arm.temperature
    return build.at_temperature(sampling, wanted)

  def _readable(self, trajectory: records.Trajectory) -> records.Trajectory:
    """With what a person would want to read beside what the model read."""
    problem = self.by_id[trajectory.problem]
    meta = {"question": problem.question, "gold": problem.gold}
    return dataclasses.replace(
      trajectory, gold=self.task.target(problem), meta=meta
    )


def remembering(
  propose: refine.Proposer, known: dict[records.Prompt, records.Sample]
) -> refine.Proposer:
  """A greedy proposer that answers each prompt once; fills `known`."""

  def answer(requests):
    new = {r.prompt: r for r in requests if r.prompt not in known}
    once = [dataclasses.replace(r, n=1) for r in new.values()]
    for prompt, (sample,) in zip(new, propose(once), strict=True):
      known[prompt] = sample
    return [
      [
        dataclasses.replace(known[r.prompt], id=f"{r.id}/{i}")
        for i in range(r.n)
      ]
      for r in requests
    ]

  return answer


def _problem_of(request: Request) -> str:
  return request.id.rpartition("/t")[0]


def _line(name: str, folder: pathlib.Path) -> str:
  summary = json.loads((folder / "summary.json").read_text())
  turns = [f"{t[summary['metric']]['mean']:.1f}" for t in summary["turns"]]
  tokens = np.round(summary["tokens_per_problem"], 1)
  said = f"{name}: {' -> '.join(turns)} % ({tokens} tokens per problem)"
  for who, counts in summary.get("prefill", {}).items():
    said += f"; {who}: {counts['read']} read, {counts['kept']} kept"
  return said


if __name__ == "__main__":
  launch.run(main, SECTIONS)
