"""Critics: oracle, model, and the controls made out of them.

A critic is `Callable[[Sequence[Trajectory]], list[Feedback]]`: it looks at the
last hypothesis of each trajectory.
"""

import collections
import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from refine_jax.methods.refine import (
  Critic,
  Proposer,
  Template,
  content_tokens,
)
from refine_jax.records import Feedback, Problem, Trajectory
from refine_jax.sampling.settings import Request
from refine_jax.tasks.base import Task


def oracle(
  feedback: Callable[[Problem, str], str],
  problems: Mapping[str, Problem],
  no_hint: str,
) -> Critic:
  """The task's own feedback, which knows the gold."""

  def critic(trajectories: Sequence[Trajectory]) -> list[Feedback]:
    texts = [
      feedback(problems[t.problem], t.turns[-1].hypothesis)
      for t in trajectories
    ]
    return [Feedback(text, accepted=text == no_hint) for text in texts]

  return critic


def model(generate: Proposer, template: Template, no_hint: str) -> Critic:
  """A trained critic; accepts when its text is the task's no-hint text."""

  def critic(trajectories: Sequence[Trajectory]) -> list[Feedback]:
    requests = [
      Request(
        id=name,
        prompt=template.critique(
          t.question, t.turns[-1].tokens or t.turns[-1].hypothesis
        ),
      )
      for t, name in zip(trajectories, _names(trajectories), strict=True)
    ]
    samples = [group[0] for group in generate(requests)]
    return [
      Feedback(
        text=sample.text,
        accepted=sample.text.strip() == no_hint,
        tokens=content_tokens(sample),
      )
      for sample in samples
    ]

  return critic


def _names(trajectories: Sequence[Trajectory]) -> list[str]:
  """Request ids: `problem/c<turn>`, further candidates `.../1`, `.../2`."""
  seen = collections.Counter()
  names = []
  for trajectory in trajectories:
    name = f"{trajectory.id}/c{len(trajectory.turns)}"
    names.append(f"{name}/{seen[name]}" if seen[name] else name)
    seen[name] += 1
  return names


def none(trajectories: Sequence[Trajectory]) -> list[Feedback]:
  """Says nothing and never accepts."""
  return [Feedback("", accepted=False) for _ in trajectories]


def manual(ask: Callable[[str], str], no_hint: str) -> Critic:
  """A person: what is typed is the feedback, an empty line accepts.

  Args:
    ask: shows a text and gives back a line, as `input` does.
    no_hint: what an accepting critic says; typing it accepts as well.
  """

  def heard(t: Trajectory) -> Feedback:
    shown = f"{t.question}\nturn {len(t.turns)}: {t.turns[-1].hypothesis}\n"
    text = ask(f"\n{shown}feedback, or nothing to accept> ").strip() or no_hint
    return Feedback(text, accepted=text == no_hint)

  return lambda trajectories: [heard(t) for t in trajectories]


def noisy(critic: Critic, *, rate: float, pool: Sequence[str], seed: int):
  """With probability `rate` the words are replaced by random ones of `pool`.

  The paper's noise study (its figure 4). The verdict follows the words, as it
  would for a critic that is wrong.
  """

  def noise(trajectory: Trajectory, feedback: Feedback) -> Feedback:
    rng = _generator(seed, trajectory)
    if rng.random() >= rate:
      return feedback
    return Feedback(pool[rng.integers(len(pool))], accepted=False)

  return lambda ts: [noise(t, f) for t, f in zip(ts, critic(ts), strict=True)]


def shuffled(critic: Critic, *, pool: Sequence[str], seed: int) -> Critic:
  """Another problem's words, the critic's own verdict.

  What is left of the gain is due to the verdict and to trying again, not to
  what the feedback says. Words are drawn from the rejections of the same turn
  on other problems, or from `pool` where there are none.
  """

  def critique(trajectories: Sequence[Trajectory]) -> list[Feedback]:
    given = critic(trajectories)
    said = [
      (t.problem, f)
      for t, f in zip(trajectories, given, strict=True)
      if not f.accepted
    ]
    return [
      f if f.accepted else _other(t, said, pool, seed)
      for t, f in zip(trajectories, given, strict=True)
    ]

  return critique


def _other(trajectory, said, pool, seed) -> Feedback:
  rng = _generator(seed, trajectory)
  for i in rng.permutation(len(said))[:16]:
    problem, feedback = said[i]
    if problem != trajectory.problem:
      return feedback
  return Feedback(pool[rng.integers(len(pool))], accepted=False)


def words_of(task: Task, problems: Sequence[Problem]) -> list[str]:
  """Feedback that perturbations of these problems earn: a pool of noise."""
  texts = {
    row.feedback
    for i, problem in enumerate(problems)
    for row in task.perturb(problem, np.random.default_rng([0, i]))
  }
  return sorted(texts - {task.no_hint}) or [task.no_hint]


def verdict_of(critic: Critic, words: Critic) -> Critic:
  """`words`' text under `critic`'s verdict."""

  def critique(trajectories: Sequence[Trajectory]) -> list[Feedback]:
    return [
      dataclasses.replace(said, accepted=judged.accepted)
      for said, judged in zip(
        words(trajectories), critic(trajectories), strict=True
      )
    ]

  return critique


def _generator(seed: int, trajectory: Trajectory) -> np.random.Generator:
  key = f"{trajectory.id}/{len(trajectory.turns)}".encode()
  return np.random.default_rng([seed, zlib.crc32(key)])
