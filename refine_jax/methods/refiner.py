"""Training a generator with the critic in the loop, as data.

REFINER's algorithm 1 sums, for one batch, the loss of T turns that all have
the gold as target: turn 1 from the question alone, turn t from the question,
the hypothesis of turn t-1 and the feedback on it. Parameters do not change
between the turns of a batch, so rolling the turns out first and accumulating
their gradients afterwards is the same update without T graphs in memory.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from refine_jax.methods.refine import (
  Critic,
  Proposer,
  Template,
  next_prompt,
  start,
)
from refine_jax.records import Example, Problem, Sample, Trajectory, Turn
from refine_jax.sampling.settings import Request
from refine_jax.tasks.base import Task

# Chooses which of n samples is criticised; gets the samples and a generator.
Choice = Callable[[Sequence[Sample], np.random.Generator], Sample]


@dataclasses.dataclass(frozen=True)
class Rollout:
  """How the turns of a batch are made and what is learned from them.

  Attributes:
    turns: T, the supervised turns; turn 1 needs no sampling.
    samples: hypotheses drawn at each turn (the paper's exploration, n = 3).
    choose: which of them gets feedback: `random` (paper), `last` (the original
      code), `first`, or `wrong` (one the critic rejects, if there is any).
    first_turn: whether turn 1 is learned from too (the paper: yes). Small
      models then learn to ignore feedback.
    errors_only: leave out turns whose hypothesis was already accepted.
    mask: rate of words of the question (those the task lets be hidden) that
      `mask_word` replaces in revision prompts, so that the hypothesis and the
      feedback have to be read.
    mask_rows: the share of revision prompts that are masked at all.
  """

  turns: int = 3
  samples: int = 3
  choose: str = "random"
  first_turn: bool = True
  errors_only: bool = False
  mask: float = 0.0
  mask_rows: float = 1.0
  mask_word: str = "_"

  def __post_init__(self):
    if self.turns < 1 or self.samples < 1:
      raise ValueError(f"turns and samples start at 1, got {self}")
    if self.choose not in ("random", "last", "first", "wrong"):
      raise ValueError(
        f"choose is random, last, first or wrong, not {self.choose!r}"
      )
    if self.turns == 1 and not self.first_turn:
      raise ValueError("with one turn, turn 1 is all there is to learn")

  @property
  def learned_turns(self) -> int:
    return self.turns if self.first_turn else self.turns - 1


def roll_out(
  task: Task,
  problems: Sequence[Problem],
  *,
  generate: Proposer,
  critic: Critic,
  template: Template,
  rollout: Rollout,
  seed: int,
) -> list[list[Example]]:
  """One list of examples per turn learned; within a list, one per problem.

  Examples left out by `errors_only` are simply missing from their list.
  """
  trajectories = [start(p, task.prompt(p)) for p in problems]
  turns = []
  if rollout.first_turn:
    turns.append(_examples(task, problems, trajectories, template, 1))
  for turn in range(2, rollout.turns + 1):
    trajectories = _advance(
      trajectories, generate, critic, template, rollout, [seed, turn]
    )
    rng = np.random.default_rng([seed, turn, 1])
    examples = _examples(
        task, problems, trajectories, template, turn,
        question=lambda text, rng=rng: _masked(task, text, rollout, rng),
    )  # fmt: skip
    keep = [
      not (rollout.errors_only and t.turns[-1].feedback.accepted)
      for t in trajectories
    ]
    turns.append([e for e, k in zip(examples, keep, strict=True) if k])
  return turns


def _examples(
  task, problems, trajectories, template, turn, question=lambda text: text
) -> list[Example]:
  return [
    Example(
      id=f"{p.id}/t{turn}",
      prompt=next_prompt(
        template, dataclasses.replace(t, question=question(t.question))
      ),
      target=(task.target(p),),
    )
    for p, t in zip(problems, trajectories, strict=True)
  ]


def _advance(
  trajectories, generate, critic, template, rollout, seed
) -> list[Trajectory]:
  requests = [
    Request(
      id=f"{t.id}/t{len(t.turns) + 1}",
      prompt=next_prompt(template, t),
      n=rollout.samples,
    )
    for t in trajectories
  ]
  groups = [
    [_extended(t, sample) for sample in samples]
    for t, samples in zip(trajectories, generate(requests), strict=True)
  ]
  rng = np.random.default_rng(seed)
  if rollout.choose == "wrong":
    judged = _judge(groups, critic)
    return [_first_wrong(group) for group in judged]
  index = {
    "first": lambda n: 0,
    "last": lambda n: n - 1,
    "random": lambda n: int(rng.integers(n)),
  }[rollout.choose]
  chosen = [[group[index(len(group))]] for group in groups]
  return [group[0] for group in _judge(chosen, critic)]


def _judge(groups, critic):
  feedback = iter(critic([t for group in groups for t in group]))
  return [
    [_with_feedback(t, next(feedback)) for t in group] for group in groups
  ]


def _first_wrong(group: Sequence[Trajectory]) -> Trajectory:
  wrong = (t for t in group if not t.turns[-1].feedback.accepted)
  return next(wrong, group[0])


def _extended(trajectory: Trajectory, sample: Sample) -> Trajectory:
  # Training rollouts pass text on: the original's input is text too, and a
  # record of the example can then be read.
  turn = Turn(hypothesis=sample.text)
  return dataclasses.replace(trajectory, turns=(*trajectory.turns, turn))


def _with_feedback(trajectory: Trajectory, feedback) -> Trajectory:
  *before, last = trajectory.turns
  last = dataclasses.replace(last, feedback=feedback)
  return dataclasses.replace(trajectory, turns=(*before, last))


def _masked(
  task: Task, text: str, rollout: Rollout, rng: np.random.Generator
) -> str:
  if not rollout.mask or rng.random() >= rollout.mask_rows:
    return text
  words = text.split(" ")
  for place in task.maskable(text):
    if rng.random() < rollout.mask:
      words[place] = rollout.mask_word
  return " ".join(words)


def by_id(problems: Sequence[Problem]) -> Mapping[str, Problem]:
  return {problem.id: problem for problem in problems}
