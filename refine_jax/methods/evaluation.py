"""Figures over trajectories: per turn, per change, per error type."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refine_jax.algorithms import intervals
from refine_jax.records import Problem, Sample, Trajectory
from refine_jax.tasks.base import Task


def with_metrics(
  task: Task, problems: Mapping[str, Problem], trajectory: Trajectory
) -> Trajectory:
  """The trajectory with `task.metrics` on every turn."""
  problem = problems[trajectory.problem]
  turns = tuple(
    dataclasses.replace(t, metrics=task.metrics(problem, t.hypothesis))
    for t in trajectory.turns
  )
  return dataclasses.replace(trajectory, turns=turns)


def at_turn(trajectories: Sequence[Trajectory], turn: int, metric: str):
  """One value per problem; who stopped earlier keeps the last hypothesis."""
  return np.array(
      [t.turns[min(turn, len(t.turns)) - 1].metrics[metric]
       for t in trajectories]
  )  # fmt: skip


def summary(
  trajectories: Sequence[Trajectory], *, turns: int, seed: int = 0
) -> dict[str, Any]:
  """Everything a table needs of one arm; shares in percent.

  Returns:
    problems; per turn, per metric, mean and 95 % bounds; what the loop
    changed between the first and the last turn (wrong->right, right->wrong,
    of the task's first metric); the share accepted; tokens generated.
  """
  names = list(trajectories[0].turns[0].metrics)
  per_turn = []
  for turn in range(1, turns + 1):
    row = {}
    for name in names:
      values = 100 * at_turn(trajectories, turn, name)
      row[name] = dataclasses.asdict(intervals.bootstrap(values, seed=seed))
    per_turn.append(row)
  before = at_turn(trajectories, 1, names[0]) >= 1
  after = at_turn(trajectories, turns, names[0]) >= 1
  last = [t.turns[-1].feedback for t in trajectories]
  return {
    "problems": len(trajectories),
    "metric": names[0],
    "turns": per_turn,
    "wrong_to_right": 100 * float(np.mean(~before & after)),
    "right_to_wrong": 100 * float(np.mean(before & ~after)),
    "accepted": 100 * float(np.mean([bool(f and f.accepted) for f in last])),
    "tokens_per_problem": float(
      np.mean([sum(turn.spent for turn in t.turns) for t in trajectories])
    ),
  }


def constant(
  task: Task,
  problems: Sequence[Problem],
  answers: Iterable[str],
  tries: int = 30,
) -> str:
  """The one answer that is right most often: the floor of any model.

  Of the `tries` commonest `answers` (training targets), judged by the task's
  first metric on the problems themselves.
  """
  common = collections.Counter(answers).most_common(tries)

  def right(text: str) -> float:
    return sum(next(iter(task.metrics(p, text).values())) for p in problems)

  return max((text for text, _ in common), key=right)


def critic_report(
  task: Task,
  problems: Mapping[str, Problem],
  trajectories: Sequence[Trajectory],
) -> dict[str, float]:
  """A critic against the oracle, on hypotheses a generator really made.

  Exact match ignores the order of sentences (REFINER section 6). `detection`
  is the share of wrong hypotheses rejected, `acceptance` of right ones
  accepted, `exact/<type>` exact match where the oracle's first error is that.
  """
  hits = collections.defaultdict(list)
  for trajectory in trajectories:
    for turn in trajectory.turns:
      if turn.feedback is None:
        continue
      gold = task.feedback(problems[trajectory.problem], turn.hypothesis)
      right = gold == task.no_hint
      exact = same_feedback(task, turn.feedback.text, gold)
      hits["exact"].append(exact)
      if right:
        hits["acceptance"].append(turn.feedback.accepted)
      else:
        hits["detection"].append(not turn.feedback.accepted)
        kind = (*task.error_types(gold), "other")[0]
        hits[f"exact/{kind}"].append(exact)
  return {k: 100 * float(np.mean(v)) for k, v in sorted(hits.items())}


def same_feedback(task: Task, ours: str, gold: str) -> bool:
  return task.normalise_feedback(ours) == task.normalise_feedback(gold)


def self_consistency(
  task: Task, samples: Sequence[Sample], budget: float
) -> tuple[str, int]:
  """The commonest canonical completion among the first `budget` tokens' worth.

  Ties go to the one sampled first. At least one sample counts, whatever the
  budget; without any that has an answer, the first sample is the answer.

  Returns:
    the completion and the tokens spent.
  """
  votes: dict[str, int] = collections.Counter()
  text: dict[str, str] = {}
  spent = 0
  for i, sample in enumerate(samples):
    if i and spent + len(sample.tokens) > budget:
      break
    spent += len(sample.tokens)
    key = task.canonical(sample.text)
    if key is not None:
      votes[key] += 1
      text.setdefault(key, sample.text)
  if not votes:
    return samples[0].text, spent
  return text[max(votes, key=votes.get)], spent
